//! The worker port: publishing by WebSocket and HTTP, and what operators ask.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::{Method, Request};
use subtle::{Choice, ConstantTimeEq};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tracing::{debug, info};

use super::http::{self, Answer};
use super::in_flight::{Done, InFlight};
use super::pings::{Due, Pings};
use super::routes::{self, Found, Verb};
use super::{Ports, asked, cors, metrics, operator, publish};
use crate::auth::bearer;
use crate::close::Close;
use crate::metrics::Via;
use crate::protocol::code::{Code, Refusal};
use crate::protocol::publish::{ENVELOPE, Request as PublishRequest, answer};
use crate::session::socket::{Socket, WORKER_READ_BUFFER, close_for};

/// Answers that are gathered for one flush.
const ANSWERS: usize = 64;

/// Answers a request on the worker port. Web pages get no further than the list of origins lets them, token or not.
pub async fn handle(mut request: Request<Incoming>, peer: IpAddr, ports: Arc<Ports>) -> Answer {
    if let Some(answer) = cors::preflight(&request, &ports.worker_origins, "GET, POST, PUT, DELETE") {
        return answer;
    }
    let origin = cors::origin_of(&request);
    let mut answer = match cors::check(origin.as_ref(), &ports.worker_origins) {
        Ok(()) => route(&mut request, peer, ports.clone()).await,
        Err(refusal) => http::refuse(&refusal),
    };
    if !ports.bodies.discard(&mut request).await {
        http::end_with(&mut answer);
    }
    cors::share(&mut answer, origin.as_ref(), &ports.worker_origins);
    answer
}

async fn route(request: &mut Request<Incoming>, peer: IpAddr, ports: Arc<Ports>) -> Answer {
    let path = request.uri().path().to_owned();
    let found = routes::find(request.method(), &path);
    match &found {
        Found::Verb(Verb::Healthz, _) => return http::healthz(),
        Found::Verb(Verb::Readyz, _) => return http::readyz(&ports),
        _ => {}
    }
    if !is_known(request, &ports.worker_tokens) {
        ports.worker_turned_away(peer);
        if matches!(found, Found::Verb(Verb::Publish, _)) {
            ports.router.metrics().refused(Code::Unauthorized);
        }
        return http::refuse(&Refusal::new(
            Code::Unauthorized,
            "the worker token is missing, wrong or twice in the query: Authorization: Bearer <token>, or ?token=",
        ));
    }
    if matches!(path.as_str(), "/" | "/ws") && request.method() == Method::GET {
        if http::wants_websocket(request) {
            return upgrade(request, ports).unwrap_or_else(|refusal| http::refuse(&refusal));
        }
        if path == "/ws" {
            return http::refuse(&Refusal::new(Code::UpgradeRequired, "connect here with a WebSocket"));
        }
    }
    match found {
        Found::Verb(Verb::Publish, _) => publish::handle(request, &ports).await,
        Found::Verb(Verb::Metrics, _) => metrics::handle(&ports).await,
        Found::Verb(verb, parts) => operator::handle(verb, &parts, request, &ports).await,
        Found::OtherMethods(allowed) => http::wrong_method(&allowed),
        Found::Nothing if path == "/ws" => http::wrong_method("GET"),
        Found::Nothing => http::not_found(&format!("a WebSocket at / and /ws, {}", routes::listed())),
    }
}

/// Whether the request brings one of the tokens. Takes as long whichever it is, and whether any is.
fn is_known(request: &Request<Incoming>, tokens: &[String]) -> bool {
    if tokens.is_empty() {
        return true;
    }
    let given = bearer(request.headers()).or_else(|| http::query_value(request.uri().query()?, "token"));
    let given = given.unwrap_or_default();
    let known = |known: Choice, token: &String| known | token.as_bytes().ct_eq(given.as_bytes());
    tokens.iter().fold(Choice::from(0), known).into()
}

fn upgrade(request: &mut Request<Incoming>, ports: Arc<Ports>) -> Result<Answer, Refusal> {
    http::admit(request, &ports)?;
    let switching = http::accept_websocket(request)?;
    let id = http::query_value(request.uri().query().unwrap_or_default(), "workerId").unwrap_or_default();
    // It goes into logs: nothing but a name may.
    let id: String = id.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
    let place = ports.workers.take().ok_or_else(|| {
        Refusal::new(Code::Unavailable, "this node has as many workers' sockets as allowed (--max-workers)")
    })?;
    let upgraded = http::upgraded(request);
    tokio::spawn(async move {
        let _place = place;
        if let Some((stream, read)) = upgraded.await {
            // An event that is far too large still gets its answer, and costs nobody else's in this socket theirs.
            let most = ports.max_event.saturating_mul(4).saturating_add(ENVELOPE);
            let socket = Socket::new(stream, read, WORKER_READ_BUFFER, most).await;
            info!(worker = %id, "worker connected");
            ports.router.metrics().workers.inc();
            let close = serve(socket, &ports).await;
            ports.router.metrics().workers.dec();
            info!(worker = %id, code = close.map(Close::code), "worker disconnected");
        }
    });
    Ok(switching)
}

/// Serves one worker until its end; says how the node closed, if it did.
async fn serve(mut socket: Socket, ports: &Ports) -> Option<Close> {
    let mut in_flight = InFlight::new(ports.frames.clone());
    // What is waited for beside frames is set up once, not once a frame.
    let mut pings = Pings::new(&ports.limits);
    let mut closing = ports.closing.subscribe();
    let mut closing = pin!(asked(&mut closing));
    let patience = ports.limits.pong_timeout;
    let close = loop {
        // Something has come, or an answer took its time and nothing was read meanwhile: either way nobody is silent.
        pings.heard();
        let reads = in_flight.has_room();
        let outcome = tokio::select! {
            biased;
            // It may come back to another node at once: workers are few.
            () = closing.as_mut() => break Some(Close::Drain(Duration::ZERO)),
            Some(done) = in_flight.next() => match answer_all(&mut socket, ports, done, &mut in_flight) {
                0 => Ok(()),
                _ => flush(&mut socket, patience).await,
            },
            message = socket.next(), if reads => match message {
                Some(Ok(Message::Text(text))) => {
                    take(&text, ports, &mut in_flight);
                    Ok(())
                }
                Some(Ok(Message::Pong(_))) => {
                    pings.answered();
                    Ok(())
                }
                Some(Ok(Message::Ping(_) | Message::Frame(_))) => flush(&mut socket, patience).await,
                Some(Ok(Message::Binary(_))) => break Some(Close::Binary),
                Some(Ok(Message::Close(_))) | None => break None,
                Some(Err(error)) => break close_for(&error),
            },
            // Last, so that a pong that has come counts, however late it is read.
            due = pings.due() => match due {
                Due::Ping => match socket.feed(Message::Ping(Default::default())) {
                    Ok(()) => flush(&mut socket, patience).await,
                    Err(error) => Err(error),
                },
                Due::Silent if reads => break Some(Close::PongTimeout),
                Due::Silent => Ok(()), // what it sends is not read
            },
        };
        if let Err(error) = outcome {
            debug!(%error, "a worker's connection broke");
            // What was taken counts, although nobody hears what came of it.
            while let Some(done) = in_flight.next().await {
                ports.router.metrics().published(Via::Worker, &done.outcome);
            }
            return None;
        }
    };
    // What was taken is answered before the connection ends.
    while let Some(done) = in_flight.next().await {
        reply(&mut socket, ports, &done);
    }
    match close {
        Some(close) => socket.goodbye(close).await,
        None => socket.finish().await,
    }
    close
}

/// Writes the buffer out. A worker that takes no answers can be told nothing more: its connection counts as broken.
async fn flush(socket: &mut Socket, patience: Duration) -> Result<(), Error> {
    let late = |_| Error::Io(std::io::Error::new(ErrorKind::TimedOut, "it does not take its answers"));
    timeout(patience, socket.flush()).await.map_err(late).flatten()
}

/// Queues what a frame publishes at once, so that a user's events keep the order of their frames.
fn take(text: &Utf8Bytes, ports: &Ports, in_flight: &mut InFlight) {
    let request = PublishRequest::parse(text, ports.max_event);
    let events = request.events();
    let outcome = request.publish.map(|publish| ports.router.publish(publish));
    in_flight.push(request.reference, outcome, events, text.len());
}

/// Puts an answer into the write buffer, and with it those that are there already. Says how many there are to flush.
fn answer_all(socket: &mut Socket, ports: &Ports, first: Done, in_flight: &mut InFlight) -> usize {
    let (mut next, mut gathered) = (Some(first), 0);
    while let Some(done) = next {
        gathered += usize::from(reply(socket, ports, &done));
        next = if gathered < ANSWERS { in_flight.next().now_or_never().flatten() } else { None };
    }
    gathered
}

/// Without a `ref`, only errors are answered; says whether this one was.
fn reply(socket: &mut Socket, ports: &Ports, done: &Done) -> bool {
    ports.router.metrics().published(Via::Worker, &done.outcome);
    let wanted = done.reference.is_some() || done.outcome.is_err();
    if wanted {
        // A broken socket shows at the flush.
        let _ = socket.feed(Message::Text(answer(done.reference.as_deref(), &done.outcome)));
    }
    wanted
}
