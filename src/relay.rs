//! Assembles a node, starts it, and drains it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{pending, select_all};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

use crate::auth::Auth;
use crate::close::Close;
use crate::drain;
use crate::engine::Engine;
use crate::engine::memory::{self, MemoryEngine};
use crate::engine::redis::connection::{AddressError, Login};
use crate::engine::redis::{Config, RedisEngine, SCRIPTS};
use crate::heartbeat;
use crate::listener::body::Bodies;
use crate::listener::in_flight::OnTheirWay;
use crate::listener::places::Places;
use crate::listener::turned_away::TurnedAway;
use crate::listener::{self, Ports};
use crate::metrics::{self, Metrics};
use crate::renewal::{self, End};
use crate::router::Router;
use crate::session::rate::Rates;
use crate::settings::Settings;
use crate::settings::understood::url_at;

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be listened on.
    #[error("{flag} {address}: {source}")]
    Listen {
        /// The setting.
        flag: &'static str,
        /// Bind and port.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Whoever knows clients cannot be asked.
    #[error("{0}")]
    Auth(String),
    /// Redis cannot be addressed.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The metrics contradict each other.
    #[error("metrics: {0}")]
    Metrics(#[from] metrics::Error),
}

/// How long the last goodbyes may take beyond the drain itself.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Connections that may wait to be accepted, as far as the system allows (`net.core.somaxconn`). With a short queue, of
/// thousands that come back at once most would be dropped by the system, and try again after one, two, four seconds.
const BACKLOG: u32 = 4096;

/// A running node.
pub struct Relay {
    router: Arc<Router>,
    ports: Arc<Ports>,
    drain_timeout: Duration,
    stop_lease: watch::Sender<bool>,
    lease: JoinHandle<End>,
    tasks: Vec<JoinHandle<()>>,
    engine_tasks: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Starts a node: listens, serves, and begins to claim its id. A Redis that is away is waited for, though not here.
    ///
    /// # Errors
    /// Where a port cannot be listened on, or Redis not be addressed.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let silence = settings.limits.ping_interval + settings.limits.pong_timeout;
        let listen = |flag, port| listen(flag, SocketAddr::new(settings.bind, port), silence);
        let clients = listen("--client-port", settings.client_port)?;
        let workers = listen("--worker-port", settings.worker_port)?;
        let client_url = settings.client_url.clone().unwrap_or_else(|| url_of(&clients));
        let worker_url = settings.worker_url.clone().unwrap_or_else(|| url_of(&workers));
        let metrics = Arc::new(Metrics::new(settings.node_id.as_str(), SCRIPTS)?);
        let engine = engine(&settings, &client_url, &worker_url, &metrics)?;

        let (node, bounds) = (settings.node_id.clone(), settings.bounds);
        let router = Router::new(node, engine.clone(), metrics, settings.send_queue, bounds.registrations);
        let router = Arc::new(router);
        let engine_tasks = engine.start(router.clone());
        let auth = Auth::start(settings.auth.clone(), bounds.questions).map_err(StartError::Auth)?;
        let ports = Arc::new(Ports {
            router: router.clone(),
            limits: Arc::new(settings.limits.clone()),
            rates: Arc::new(Rates::new(settings.limits.client_rate)),
            development: settings.development,
            origins: settings.origins.clone(),
            worker_origins: settings.worker_origins.clone(),
            auth: Arc::new(auth),
            trusted_proxies: settings.trusted_proxies.clone(),
            worker_tokens: settings.worker_tokens.to_vec(),
            max_event: settings.max_event,
            node_ttl: settings.node_ttl,
            client_url,
            worker_url,
            bodies: Bodies::new(settings.waiting_connections, bounds.bodies, settings.limits.hello_timeout),
            frames: Arc::new(OnTheirWay::new(bounds.frames)),
            workers: Places::new(settings.max_workers),
            clients: Places::new(settings.max_connections),
            turned_away: TurnedAway::default(),
            draining: watch::Sender::new(false),
            closing: watch::Sender::new(false),
        });
        tell_openings(&settings);

        let (stop_lease, stop) = watch::channel(false);
        let hurry = Arc::new(Notify::new());
        let lease = tokio::spawn(renewal::keep(router.clone(), settings.node_ttl, hurry.clone(), stop));
        // A cursor must not lapse under sessions: it says that they are there.
        let shortest = settings.session_ttl.min(settings.log_ttl);
        let mut tasks = vec![tokio::spawn(heartbeat::run(router.clone(), shortest, hurry))];
        tasks.push(tokio::spawn(heartbeat::save_acks(router.clone())));
        let waiting = settings.waiting_connections;
        info!(port = "client", url = %ports.client_url, address = %address(&clients), node = %settings.node_id, "listening");
        let served = listener::serve(clients, ports.clone(), waiting, false, listener::client::handle);
        tasks.push(tokio::spawn(served));
        info!(port = "worker", url = %ports.worker_url, address = %address(&workers), node = %settings.node_id, "listening");
        let served = listener::serve(workers, ports.clone(), waiting, true, listener::worker::handle);
        tasks.push(tokio::spawn(served));
        let drain_timeout = settings.drain_timeout;
        Ok(Self { router, ports, drain_timeout, stop_lease, lease, tasks, engine_tasks })
    }

    /// Serves until `shutdown`, then drains. Where another process takes this node's id, it leaves at once.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> End {
        let failed = |ended: Result<(), JoinError>| {
            error!(
                error = ended.err().map(tracing::field::display),
                "a task of this node has ended: it drains, and exits"
            );
            End::Failed
        };
        let end = tokio::select! {
            () = shutdown => End::Stopped,
            end = &mut self.lease => end.unwrap_or_else(|error| failed(Err(error))),
            (ended, _, _) = select_all(&mut self.tasks) => failed(ended),
            error = panicked(&mut self.engine_tasks) => failed(Err(error)),
        };
        self.ports.draining.send_replace(true);
        let is_taken_over = matches!(end, End::TakenOver) || !self.hand_over().await;
        let end = if is_taken_over { End::TakenOver } else { end };
        match end {
            End::Stopped | End::Failed => self.drain().await,
            End::TakenOver => {
                error!("closing all sockets: they are another process's to serve now");
                self.router.registry().each(|session| session.close(Close::LeaseLost));
                self.close_ports().await;
            }
        }
        for task in &self.tasks {
            task.abort();
        }
        end
    }

    /// Sends clients away, to other nodes; false where another process takes this node's id meanwhile.
    async fn hand_over(&mut self) -> bool {
        info!(sessions = self.router.registry().len(), "draining");
        let is_over = self.lease.is_finished();
        tokio::select! {
            () = drain::hand_over(&self.router, self.drain_timeout) => true,
            end = &mut self.lease, if !is_over => !matches!(end, Ok(End::TakenOver)),
        }
    }

    async fn drain(&mut self) {
        // Not before: where no other node is there to read on, what comes meanwhile is for those who are still here.
        if timeout(LAST_WORDS, self.router.engine().stop_ingress()).await.is_err() {
            warn!("the ingress lease was not given back in time and will lapse");
        }
        self.close_ports().await;
        self.stop_lease.send_replace(true);
        if !self.lease.is_finished() {
            let _ = timeout(LAST_WORDS, &mut self.lease).await;
        }
        match timeout(LAST_WORDS, self.router.engine().release()).await {
            Ok(Ok(())) => info!("drained"),
            Ok(Err(error)) => warn!(%error, "drained; this node's keys were not removed and will lapse"),
            Err(_) => warn!("drained; this node's keys were not removed in time and will lapse"),
        }
    }

    /// Accepts nothing any more, sends workers away, and waits until all that was read has its answer and every socket is
    /// closed: whoever has published must hear what came of it, and what they published must be on its way.
    async fn close_ports(&self) {
        self.ports.closing.send_replace(true);
        let sockets = || self.ports.clients.taken() + self.ports.workers.taken();
        let all = async {
            // A session that was being let in when the drain began is caught here.
            while sockets() > 0 {
                self.router.registry().each(|session| session.close(Close::Drain(Duration::ZERO)));
                sleep(Duration::from_millis(10)).await;
            }
            self.ports.closing.closed().await;
        };
        if timeout(LAST_WORDS, all).await.is_err() {
            debug!("some did not take their answer, or say goodbye, in time");
        }
    }
}

/// Waits until one of these tasks has panicked. Some end by themselves, where there is nothing for them to do.
async fn panicked(tasks: &mut Vec<JoinHandle<()>>) -> JoinError {
    while !tasks.is_empty() {
        let (ended, at, _) = select_all(tasks.iter_mut()).await;
        if let Err(error) = ended {
            return error;
        }
        tasks.swap_remove(at);
    }
    pending().await
}

fn engine(
    settings: &Settings,
    client_url: &str,
    worker_url: &str,
    metrics: &Arc<Metrics>,
) -> Result<Arc<dyn Engine>, StartError> {
    let Some(redis) = &settings.redis else {
        info!(node = %settings.node_id, "local mode: everything is in memory, in this process");
        return Ok(Arc::new(MemoryEngine::new(memory::Config {
            node: settings.node_id.clone(),
            client_url: client_url.to_owned(),
            worker_url: worker_url.to_owned(),
            log_ttl: settings.log_ttl,
            log_length: settings.log_length,
            max_sessions_per_user: settings.max_sessions_per_user,
        })));
    };
    let login = Arc::new(Login::new(redis.address.clone()));
    let boot = ulid::Ulid::generate().to_string();
    info!(node = %settings.node_id, boot, "redis mode");
    Ok(Arc::new(RedisEngine::new(
        redis.address.topology()?,
        login,
        Config {
            node: settings.node_id.clone(),
            boot,
            client_url: client_url.to_owned(),
            worker_url: worker_url.to_owned(),
            key_prefix: redis.key_prefix.clone(),
            pool_size: redis.pool_size,
            wait_replicas: redis.wait_replicas,
            wait_timeout: redis.wait_timeout,
            ingress: redis.ingress.clone(),
            session_ttl: settings.session_ttl,
            node_ttl: settings.node_ttl,
            log_ttl: settings.log_ttl,
            log_length: settings.log_length,
            max_sessions_per_user: settings.max_sessions_per_user,
            uplink_length: settings.uplink_length,
            max_event: settings.max_event,
            drain_rate: settings.drain_rate,
        },
        metrics.clone(),
    )))
}

fn listen(flag: &'static str, address: SocketAddr, silence: Duration) -> Result<TcpListener, StartError> {
    bind(address, silence).map_err(|source| StartError::Listen { flag, address, source })
}

fn bind(address: SocketAddr, silence: Duration) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for what is left of old connections.
    socket.set_reuseaddr(true)?;
    listener::set_options(&socket, silence);
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn address(listener: &TcpListener) -> String {
    listener.local_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string())
}

fn url_of(listener: &TcpListener) -> String {
    listener.local_addr().map_or_else(|_| "?".to_owned(), url_at)
}

/// Says aloud what is open to everyone, what will not fit, and what is of no use.
fn tell_openings(settings: &Settings) {
    for opening in settings.openings() {
        if settings.development {
            info!("development: {opening}");
        } else {
            warn!("{opening}");
        }
    }
    for warning in settings.crowding().into_iter().chain(settings.unused()) {
        warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_ends_the_node_and_one_that_is_done_does_not() {
        let mut tasks = vec![tokio::spawn(async {}), tokio::spawn(sleep(Duration::from_secs(1)))];
        sleep(Duration::from_secs(2)).await;
        assert!(panicked(&mut tasks).now_or_never().is_none());
        tasks.push(tokio::spawn(async { panic!("a bug") }));
        assert!(panicked(&mut tasks).await.is_panic());
    }
}
