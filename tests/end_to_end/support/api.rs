//! The API server of somebody's application: it answers as the test says, and remembers what it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use super::ports::free_port;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
}

/// What comes back.
pub enum Reply {
    /// A status and a body.
    Status(u16, String),
    /// Nothing, ever.
    Silence,
}

impl Reply {
    /// 200 and JSON.
    pub fn ok(body: Value) -> Self {
        Self::Status(200, body.to_string())
    }

    /// A status and no body.
    pub fn status(status: u16) -> Self {
        Self::Status(status, String::new())
    }
}

impl Asked {
    /// A header's text; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

type Decide = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

/// The server. Stopped when dropped.
pub struct ApiServer {
    pub url: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

struct Shared {
    decide: Mutex<Decide>,
    asked: Mutex<Vec<Asked>>,
    /// One permit lets one answer out, where the test holds them back.
    held: Semaphore,
    holding: bool,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl ApiServer {
    /// Starts a server that answers by this function.
    pub async fn start(decide: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::build(decide, false).await
    }

    /// The same, with answers that wait for [`ApiServer::let_out`].
    pub async fn start_holding(decide: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::build(decide, true).await
    }

    async fn build(decide: impl Fn(&Asked) -> Reply + Send + Sync + 'static, holding: bool) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let shared = Arc::new(Shared {
            decide: Mutex::new(Arc::new(decide)),
            asked: Mutex::default(),
            held: Semaphore::new(0),
            holding,
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        });
        let mut server = Self { url: format!("http://{address}"), address, shared, task: None };
        server.listen().await;
        server
    }

    /// Listens again after [`ApiServer::stop`].
    pub async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("listening as the API server");
        self.task = Some(tokio::spawn(serve(listener, self.shared.clone())));
    }

    /// Hangs up on everyone and stops to listen.
    pub async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            task.await.ok();
        }
    }

    /// Answers by another function.
    pub fn decide(&self, decide: impl Fn(&Asked) -> Reply + Send + Sync + 'static) {
        *self.shared.decide.lock().unwrap() = Arc::new(decide);
    }

    /// Everything that it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// The last question.
    pub fn last(&self) -> Asked {
        self.asked().pop().expect("the API server was not asked")
    }

    /// Questions that are being answered at this moment.
    pub fn at_once(&self) -> usize {
        self.shared.at_once.load(Ordering::SeqCst)
    }

    /// The most there ever were at a time.
    pub fn most_at_once(&self) -> usize {
        self.shared.most_at_once.load(Ordering::SeqCst)
    }

    /// Lets so many answers out.
    pub fn let_out(&self, count: usize) {
        self.shared.held.add_permits(count);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("accepting a question");
        let shared = shared.clone();
        let service = service_fn(move |request| answer(request, shared.clone()));
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let at_once = shared.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    shared.most_at_once.fetch_max(at_once, Ordering::SeqCst);
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let asked = Asked {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).expect("a question in UTF-8"),
    };
    let decide = shared.decide.lock().unwrap().clone();
    let reply = decide(&asked);
    shared.asked.lock().unwrap().push(asked);
    if shared.holding {
        shared.held.acquire().await.expect("an open semaphore").forget();
    }
    let response = match reply {
        Reply::Silence => std::future::pending().await,
        Reply::Status(status, body) => {
            Response::builder().status(status).body(Full::from(body)).expect("an answer")
        }
    };
    shared.at_once.fetch_sub(1, Ordering::SeqCst);
    Ok(response)
}
