//! The client port: upgrades, health, and in development a page to try it with.

use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::{Method, Request};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tracing::debug;

use super::http::{self, Answer};
use super::turned_away::Caller;
use super::{Ports, asked, browser, cors, events};
use crate::auth::{Credentials, Grant, Pass};
use crate::close::Close;
use crate::engine::Registration;
use crate::protocol::client;
use crate::protocol::code::{Code, Refusal};
use crate::protocol::hello::Hello;
use crate::router::Registered;
use crate::session::Session;
use crate::session::socket::{CLIENT_READ_BUFFER, Socket, bound_silence, close_for};
use crate::session::transport::Transport;

/// Answers a request of `peer` on the client port.
pub async fn handle(request: Request<Incoming>, peer: IpAddr, ports: Arc<Ports>) -> Answer {
    if let Some(answer) = cors::preflight(&request, &ports.origins, "GET, POST") {
        return answer;
    }
    let origin = cors::origin_of(&request);
    let has_body = !request.body().is_end_stream();
    let mut answer = route(request, peer, ports.clone()).await;
    // Nothing here takes one, so nobody looks for its end.
    if has_body {
        http::end_with(&mut answer);
    }
    cors::share(&mut answer, origin.as_ref(), &ports.origins);
    answer
}

async fn route(request: Request<Incoming>, peer: IpAddr, ports: Arc<Ports>) -> Answer {
    let path = request.uri().path();
    let mut caller = Caller::of(&request, peer, &ports);
    let turned_away = |refusal, caller: &Caller| {
        ports.turned_away(&refusal, caller);
        http::refuse(&refusal)
    };
    if matches!(path, "/" | "/ws") && request.method() == Method::GET && http::wants_websocket(&request) {
        let upgraded = upgrade(request, ports.clone(), &mut caller).await;
        return upgraded.unwrap_or_else(|refusal| turned_away(refusal, &caller));
    }
    let gets = request.method() == Method::GET;
    match path {
        "/events" if gets => {
            let opened = events::open(request, ports.clone(), &mut caller).await;
            return opened.unwrap_or_else(|refusal| turned_away(refusal, &caller));
        }
        "/ws" if gets => {
            let refusal = Refusal::new(Code::UpgradeRequired, "connect here with a WebSocket");
            return turned_away(refusal, &caller);
        }
        "/events" | "/ws" => return http::wrong_method("GET"),
        _ => {}
    }
    // HEAD is GET whose answer goes out without its body.
    let reads = gets || request.method() == Method::HEAD;
    let file = browser::file(path, ports.development);
    match (path, file) {
        (_, Some(file)) if reads => browser::serve(file, &request, &ports),
        ("/healthz", _) if reads => http::healthz(),
        ("/readyz", _) if reads => http::readyz(&ports),
        ("/", _) if reads && ports.development => browser::console(&ports),
        (_, Some(_)) | ("/healthz" | "/readyz", _) => http::wrong_method("GET, HEAD"),
        ("/", _) if ports.development => http::wrong_method("GET, HEAD"),
        _ => {
            // Whoever looks for something else than a connection is no client that was turned away.
            if http::wants_websocket(&request) {
                ports.router.metrics().turned_away(Code::NotFound);
            }
            http::not_found(
                "a WebSocket at / and /ws, GET /events, GET /client.js, GET /healthz and GET /readyz",
            )
        }
    }
}

async fn upgrade(
    request: Request<Incoming>,
    ports: Arc<Ports>,
    caller: &mut Caller,
) -> Result<Answer, Refusal> {
    http::admit(&request, &ports)?;
    let switching = http::accept_websocket(&request)?;
    let hello = Hello::from_query(request.uri().query().unwrap_or_default())?;
    caller.says(&hello);
    let credentials = Credentials::of(request.headers(), caller.ip);
    let place = place(&ports)?;
    if !ports.auth.is_named(&credentials, &hello) {
        tokio::spawn(greet(request, ports, (credentials, hello), place, caller.clone()));
        return Ok(switching);
    }
    // Refusals must come before the upgrade; where the peer goes away meanwhile, `opened` takes it back.
    let opened = let_in(&credentials, &hello, &ports, caller).await?;
    tokio::spawn(async move {
        if let Some(socket) = socket(request, &ports).await {
            opened.serve(socket, &ports, place);
        }
    });
    Ok(switching)
}

/// A place for one more connection.
///
/// # Errors
/// `unavailable` where there is none.
pub(super) fn place(ports: &Ports) -> Result<OwnedSemaphorePermit, Refusal> {
    ports.clients.take().ok_or_else(|| {
        Refusal::new(Code::Unavailable, "this node has as many connections as allowed (--max-connections)")
    })
}

async fn socket(mut request: Request<Incoming>, ports: &Ports) -> Option<Socket> {
    let Some((stream, read)) = http::upgraded(&mut request).await else {
        ports.router.metrics().not_introduced(None);
        debug!("a client was gone before its handshake was done");
        return None;
    };
    bound_silence(&stream, Duration::ZERO);
    Some(Socket::new(stream, read, CLIENT_READ_BUFFER, ports.limits.max_message).await)
}

/// Waits for a hello frame, and lets the client in. `brought` is what its request has said already.
async fn greet(
    request: Request<Incoming>,
    ports: Arc<Ports>,
    brought: (Credentials, Hello),
    place: OwnedSemaphorePermit,
    mut caller: Caller,
) {
    let Some(mut socket) = socket(request, &ports).await else { return };
    let mut draining = ports.draining.subscribe();
    let not_introduced = |close| {
        ports.router.metrics().not_introduced(close);
        close
    };
    let heard = tokio::select! {
        heard = timeout(ports.limits.hello_timeout, hello(&mut socket)) => heard,
        // Nobody need wait for who has not said who it is.
        () = asked(&mut draining) => Ok(Err(Some(Close::Drain(Duration::ZERO)))),
    };
    let close = match heard {
        Err(_) => not_introduced(Some(Close::HelloTimeout)),
        Ok(Err(close)) => not_introduced(close),
        Ok(Ok(text)) => match unless_gone(&socket, said(&text, brought, &ports, &mut caller)).await {
            None => not_introduced(None),
            Some(Ok(opened)) => {
                return opened.serve(socket, &ports, place);
            }
            Some(Err(refusal)) => {
                ports.turned_away(&refusal, &caller);
                let _ = socket.feed(Message::Text(client::error(&refusal))); // a broken socket shows below
                Some(match refusal.code {
                    Code::Unauthorized => Close::Unauthorized,
                    Code::TooManySessions | Code::Unavailable | Code::Draining => Close::Overloaded,
                    _ => Close::BadHello,
                })
            }
        },
    };
    match close {
        Some(close) => socket.goodbye(close).await,
        None => socket.finish().await,
    }
    drop(place);
}

/// Does something for a peer as long as it is there.
async fn unless_gone<T>(socket: &Socket, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = socket.gone() => None,
        done = work => Some(done),
    }
}

async fn said(
    text: &str,
    brought: (Credentials, Hello),
    ports: &Ports,
    caller: &mut Caller,
) -> Result<Opened, Refusal> {
    let (credentials, query) = brought;
    let_in(&credentials, &Hello::from_frame(text)?.or(query)?, ports, caller).await
}

/// A session that is registered and not served yet.
pub(super) struct Opened {
    registered: Registered,
    registration: Box<Registration>,
    expires: Option<Instant>,
}

impl Opened {
    pub(super) fn serve(self, transport: impl Into<Transport>, ports: &Ports, place: OwnedSemaphorePermit) {
        let pass = Pass { auth: ports.auth.clone(), expires: self.expires };
        let (limits, rates) = (ports.limits.clone(), ports.rates.clone());
        Session::start(transport, self.registered, self.registration, limits, rates, pass, place);
    }
}

/// Lets a client in by what it said of itself and what its request brought along.
///
/// # Errors
/// Why not.
pub(super) async fn let_in(
    credentials: &Credentials,
    hello: &Hello,
    ports: &Ports,
    caller: &mut Caller,
) -> Result<Opened, Refusal> {
    caller.says(hello);
    let Grant { identity, expires } = ports.auth.admit(credentials, hello).await?;
    caller.is(&identity);
    if ports.is_draining() {
        return Err(Refusal::draining());
    }
    // Redis may be slow, or others before it: it is not let in by what ends meanwhile. But that was good when it came, and
    // `unauthorized` would have it stay away, though it may have a new one.
    let expired = async {
        match expires {
            Some(expires) => sleep_until(expires).await,
            None => pending().await,
        }
    };
    let (registered, registration) = tokio::select! {
        biased;
        () = expired => return Err(Refusal::new(
            Code::Unavailable,
            "the client's credentials expired before it could be let in; try again",
        )),
        opened = ports.router.open(identity) => opened?,
    };
    Ok(Opened { registered, registration, expires })
}

/// Pings and pongs that a client may send before its hello. Each ping has an answer, which waits for who does not read.
const MOST_BEFORE_HELLO: usize = 100;

/// The first text frame; or how to close, if there is anyone to close.
async fn hello(socket: &mut Socket) -> Result<String, Option<Close>> {
    for _ in 0..=MOST_BEFORE_HELLO {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
            Some(Ok(Message::Binary(_))) => return Err(Some(Close::Binary)),
            Some(Ok(Message::Close(_))) | None => return Err(None),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(close_for(&error)),
        }
    }
    Err(Some(Close::RateLimited))
}
