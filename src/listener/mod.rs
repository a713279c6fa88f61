//! The two ports: accepting, HTTP, handshakes. What goes on after the handshake is a session's matter.

pub mod body;
pub mod browser;
pub mod client;
pub mod cors;
pub mod events;
pub mod http;
pub mod in_flight;
pub mod metrics;
pub mod operator;
pub mod peer;
pub mod pings;
pub mod places;
pub mod publish;
pub mod room;
pub mod routes;
pub mod trace;
pub mod turned_away;
pub mod worker;

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::interval;
use tracing::{debug, warn};

use crate::auth::Auth;
use crate::auth::origin::Origins;
use crate::retold::Retold;
use crate::router::Router;
use crate::session::Limits;
use crate::session::rate::Rates;
use crate::session::socket::bound_silence;
use body::Bodies;
use in_flight::OnTheirWay;
use places::Places;
use room::{Guest, Room};
use turned_away::TurnedAway;

/// Bytes of a request's head: a long token in a URL fits.
const MAX_HEAD: usize = 16 * 1024;
/// Headers of a request.
const MAX_HEADERS: usize = 64;
/// Bytes that the system may hold for a peer that has not taken them; it doubles that for its own needs. A ping waits
/// behind them, a session that catches up reads ahead by as much, and by itself the system takes megabytes.
const UNSENT: usize = 128 * 1024;
/// How long the accept loop rests when the process is out of files: it would spin otherwise.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What Linux tells an accept loop of a connection that has ended meanwhile, or that a firewall forbids: `accept(2)`.
const OF_ONE: &[Errno] = &[
    Errno::CONNABORTED,
    Errno::CONNRESET,
    Errno::PERM,
    Errno::PROTO,
    Errno::NOPROTOOPT,
    Errno::OPNOTSUPP,
    Errno::HOSTDOWN,
    Errno::HOSTUNREACH,
    Errno::NETDOWN,
    Errno::NETUNREACH,
    #[cfg(target_os = "linux")]
    Errno::NONET,
];

/// What both ports need to know.
pub struct Ports {
    /// Publish and deliver.
    pub router: Arc<Router>,
    /// What sessions need.
    pub limits: Arc<Limits>,
    /// What clients may still send.
    pub rates: Arc<Rates>,
    /// Conveniences are on.
    pub development: bool,
    /// Where browsers may connect from.
    pub origins: Origins,
    /// Where browsers may reach the worker port from.
    pub worker_origins: Origins,
    /// Who may connect.
    pub auth: Arc<Auth>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Tokens that open the worker port; none leaves it open.
    pub worker_tokens: Vec<String>,
    /// Largest event, bytes.
    pub max_event: usize,
    /// How old a sign of life may be: [`Ports::is_ready`].
    pub node_ttl: Duration,
    /// The address that clients are told.
    pub client_url: String,
    /// The address that workers are told.
    pub worker_url: String,
    /// Bounds on what requests bring along.
    pub bodies: Bodies,
    /// Bounds on what workers have on their way together.
    pub frames: Arc<OnTheirWay>,
    /// A place for each worker's socket.
    pub workers: Places,
    /// A place for each client's socket.
    pub clients: Places,
    /// What was told of clients that are not let in.
    pub turned_away: TurnedAway,
    /// Whether the node is going away. Clients who have not said hello go at once.
    pub draining: watch::Sender<bool>,
    /// Whether the ports are closing, once clients have been handed over. Each of them, each connection that is in a
    /// request and each worker's socket holds a receiver.
    pub closing: watch::Sender<bool>,
}

impl Ports {
    /// Whether the node is going away.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Whether the node should get clients; if not, why.
    ///
    /// # Errors
    /// The reason.
    pub fn is_ready(&self) -> Result<(), &'static str> {
        let engine = self.router.engine();
        // A sign of life comes with every beat, one a second at least: where none has come for so long, that is no accident.
        let patience = self.node_ttl.max(Duration::from_secs(5));
        if self.is_draining() {
            Err("draining")
        } else if let Some(obstacle) = self.router.lease().obstacle() {
            Err(obstacle)
        } else if !engine.is_up() {
            Err("Redis cannot be used")
        } else if !self.router.lease().is_held() {
            Err("not registered")
        } else if engine.sign_of_life().is_none_or(|age| age > patience) {
            Err("no entry of its own has come through the inbox lately")
        } else {
            Ok(())
        }
    }
}

/// Sets options that each connection has from the socket that listens, so that the system need not be asked for each of
/// them: before it listens, as those who come are let in from then on. `silence` is how long a peer may take nothing.
pub fn set_options(socket: &TcpSocket, silence: Duration) {
    // An event goes out at once; waiting for more would cost 40 ms.
    let set = sockopt::set_tcp_nodelay(socket, true)
        .and_then(|()| sockopt::set_socket_send_buffer_size(socket, UNSENT));
    if let Err(error) = set {
        warn!(%error, "the system sends when it likes, and holds as much for a peer as it likes");
    }
    bound_silence(socket, silence);
}

/// Has `handle` answer the requests on `listener` until the ports are closing: then no more connections are accepted,
/// and each that is open ends with the request that it is in. `most` connections may wait between requests.
/// `half_close`: who says no more after a request still hears what comes of it; else nobody is there any more, which is
/// how clients of event streams leave.
pub async fn serve<F>(
    listener: TcpListener,
    ports: Arc<Ports>,
    most: usize,
    half_close: bool,
    handle: fn(Request<Incoming>, IpAddr, Arc<Ports>) -> F,
) where
    F: Future<Output = http::Answer> + Send + 'static,
{
    let mut closing = ports.closing.subscribe();
    let hello_timeout = ports.limits.hello_timeout;
    let room = Room::new(most);
    let mut failures = Retold::default();
    let mut sweep = interval(hello_timeout);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(hello_timeout)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .half_close(half_close);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = asked(&mut closing) => return,
            _ = sweep.tick() => {
                // hyper sees to those who send no request in time; these do not take their answer.
                room.sweep(hello_timeout * 2);
                continue;
            }
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one(&error) => {
                debug!(%error, "a connection was gone before it was accepted");
                continue;
            }
            Err(error) => {
                // Each file that comes free lets one in, and the next finds none again.
                if let Some(times) = failures.again() {
                    warn!(%error, times, "connections cannot be accepted now");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (guest, ports, closing) = (room.enter().await, ports.clone(), closing.clone());
        let handle = move |request| handle(request, peer.ip(), ports.clone());
        tokio::spawn(serve_connection(stream, guest, http.clone(), closing, handle));
    }
}

/// Answers the requests of one connection, until it is `closing`: then it ends with the one that it is in. Between them it
/// sits, as `guest`.
async fn serve_connection<H, F>(
    stream: TcpStream,
    guest: Arc<Guest>,
    http: http1::Builder,
    mut closing: watch::Receiver<bool>,
    handle: H,
) where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = http::Answer>,
{
    let sitting = guest.clone();
    let service = service_fn(move |request| {
        let guest = guest.clone();
        guest.stand();
        let answer = http::check_head(&request).map(|()| handle(request));
        async move {
            let mut answer = match answer {
                Ok(answer) => answer.await,
                Err(refusal) => http::refuse_and_close(&refusal),
            };
            match answer.body_mut() {
                http::Body::Left(_) if guest.sit() => http::end_with(&mut answer),
                http::Body::Left(_) => {}
                // Once its session is over, the rest of it has to be taken in time, as any answer. Whoever has not even
                // taken the goodbye in its time has had that: hyper holds what comes before it.
                http::Body::Right(events) => events.when_over(move |is_taken| {
                    if is_taken {
                        guest.sit();
                    } else {
                        guest.ask_to_go();
                    }
                }),
            }
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let mut is_closing = false;
    let served = loop {
        tokio::select! {
            served = connection.as_mut() => break served,
            () = sitting.asked_to_go() => return debug!("a connection without a request made room, or did not take its answer"),
            () = asked(&mut closing), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = served {
        debug!(%error, "a connection ended in the middle of a request");
    }
}

/// Whether what was wrong ended with one connection.
fn is_of_one(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| OF_ONE.iter().any(|of_one| of_one.raw_os_error() == code))
}

/// Waits until the node is draining, or its ports are closing.
async fn asked(to: &mut watch::Receiver<bool>) {
    // An error means that the node is gone altogether.
    let _ = to.wait_for(|asked| *asked).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_connection_does_not_wait_for_what_was_wrong_with_one() {
        let is = |error: Errno| is_of_one(&error.into());
        assert!(OF_ONE.iter().copied().all(is));
        assert!(![Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::INVAL].into_iter().any(is));
    }

    #[tokio::test]
    async fn a_connection_has_the_options_of_its_listener() {
        let socket = TcpSocket::new_v4().unwrap();
        set_options(&socket, Duration::from_secs(13));
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert!(stream.nodelay().unwrap());
        assert!((UNSENT..=2 * UNSENT).contains(&sockopt::socket_send_buffer_size(&stream).unwrap()));
        #[cfg(target_os = "linux")]
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 13_000);
    }
}
