//! Three nodes, each behind a proxy of its own, on one Redis with its data on disk.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;

use crate::proxy::Proxy;
use crate::support::{BOUND, Db, Node, NodeBuilder, RedisServer, eventually, http};

/// A node's lease: short, because most faults are about its end, and long enough for a busy machine.
pub const NODE_TTL: Duration = Duration::from_secs(3);
/// The lease on a user; a hint that went astray is missed within a third of it.
pub const SESSION_TTL: Duration = Duration::from_secs(9);
/// How long a node takes to say goodbye to all.
const DRAIN: Duration = Duration::from_secs(2);

/// The addresses of the nodes, as a balancer knows them: fixed, whether anybody listens there or not.
#[derive(Clone)]
pub struct Addresses {
    pub clients: Vec<u16>,
    pub workers: Vec<u16>,
    pub redis: u16,
}

/// Everything that runs.
pub struct Stage {
    pub addresses: Arc<Addresses>,
    pub redis: RedisServer,
    pub proxies: Vec<Proxy>,
    nodes: Vec<Option<Node>>,
    builders: Vec<NodeBuilder>,
    /// Unix ms at which the last fault was over.
    pub healed_ms: Arc<Mutex<u64>>,
}

impl Stage {
    /// Starts Redis, the proxies and the nodes.
    pub async fn start() -> Self {
        let redis = RedisServer::start_durable().await;
        let (mut proxies, mut builders) = (Vec::new(), Vec::new());
        let (mut clients, mut workers) = (Vec::new(), Vec::new());
        for name in ["n1", "n2", "n3"] {
            let proxy = Proxy::start(redis.port()).await;
            let (client, worker) = crate::support::node::two_ports();
            let seconds = |duration: Duration| format!("{}s", duration.as_secs());
            let builder = NodeBuilder::redis_at(name, &format!("redis://127.0.0.1:{}", proxy.port))
                .set("--client-port", &client.to_string())
                .set("--worker-port", &worker.to_string())
                .set("--node-ttl", &seconds(NODE_TTL))
                .set("--session-ttl", &seconds(SESSION_TTL))
                .set("--drain-timeout", &seconds(DRAIN))
                .set("--ping-interval", "4s")
                .set("--pong-timeout", "4s")
                .set("--log-length", "400")
                .set("--log-level", "warn,switchboard::relay=info");
            proxies.push(proxy);
            builders.push(builder);
            clients.push(client);
            workers.push(worker);
        }
        let addresses = Arc::new(Addresses { clients, workers, redis: redis.port() });
        let mut stage = Self {
            addresses,
            redis,
            proxies,
            nodes: builders.iter().map(|_| None).collect(),
            builders,
            healed_ms: Arc::default(),
        };
        for at in 0..stage.builders.len() {
            stage.start_node(at).await;
        }
        stage.ready().await;
        stage
    }

    /// How many nodes there are, running or not.
    pub fn size(&self) -> usize {
        self.builders.len()
    }

    /// A node that runs.
    pub fn node(&self, at: usize) -> &Node {
        self.nodes[at].as_ref().expect("a running node")
    }

    /// Starts a node that does not run, and waits until it listens.
    pub async fn start_node(&mut self, at: usize) {
        assert!(self.nodes[at].is_none(), "node {at} runs already");
        self.nodes[at] = Some(self.builders[at].start_listening().await);
    }

    /// Starts a node that does not run, with another program.
    pub async fn start_other(&mut self, at: usize, program: &str) {
        assert!(self.nodes[at].is_none(), "node {at} runs already");
        self.nodes[at] = Some(self.builders[at].clone().program(program).start_listening().await);
    }

    /// `kill -9`.
    pub fn kill(&mut self, at: usize) {
        self.nodes[at].take().expect("a running node").kill();
    }

    /// SIGTERM, and waits for its end.
    pub async fn terminate(&mut self, at: usize) {
        let mut node = self.nodes[at].take().expect("a running node");
        node.signal(Signal::TERM);
        let status = node.exit(DRAIN + BOUND).await;
        assert!(status.success(), "node {at} drained with {status}");
    }

    /// Waits until every node is ready.
    pub async fn ready(&self) {
        for node in &self.nodes {
            let url = node.as_ref().expect("every node runs").worker_http("/readyz");
            http::answers(&url, 200, 2 * BOUND).await;
        }
    }

    /// The fault is over from now on.
    pub fn healed(&self) {
        *self.healed_ms.lock().expect("the time") = now_ms();
    }

    /// The node that reads the ingress stream.
    pub async fn ingress_reader(&self) -> usize {
        let mut db = self.redis.db().await;
        let what = "a reader of the ingress stream";
        let name = eventually(BOUND, what, async || reader(&mut db).await.ok_or("none".to_owned())).await;
        ["n1", "n2", "n3"].iter().position(|node| *node == name).expect("one of the nodes")
    }
}

/// As README tells operators: the group's consumer that is named `lease <node> <boot> <until>`.
async fn reader(db: &mut Db) -> Option<String> {
    let mut ask = redis::cmd("XINFO");
    ask.arg("CONSUMERS").arg("events").arg("switchboard");
    let consumers: Vec<redis::Value> = db.run(&ask).await;
    consumers.iter().find_map(|consumer| {
        let redis::Value::Array(fields) = consumer else { return None };
        let name: String = redis::from_redis_value_ref(fields.get(1)?).ok()?;
        let mut words = name.split(' ');
        (words.next() == Some("lease")).then(|| words.next().map(str::to_owned)).flatten()
    })
}

/// Unix ms.
pub fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    u64::try_from(now.as_millis()).expect("a clock of this age")
}
