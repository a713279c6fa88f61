//! Who is not let in, in the log: each at `debug`; for everyone the first of a kind, and then one a minute with how many
//! there were. A back end that signs tokens wrongly must show, and may not fill the log.

use std::net::IpAddr;
use std::sync::Mutex;

use hyper::Request;
use hyper::header::HeaderValue;
use tracing::{debug, info};

use super::{Ports, cors, peer};
use crate::id::{ClientId, UserId};
use crate::lock::lock;
use crate::protocol::code::{Code, Refusal};
use crate::protocol::hello::{Hello, Identity};
use crate::retold::Retold;

/// So much of an `Origin` is told: who sends more is no browser.
const MOST_OF_ORIGIN: usize = 256;

/// Who wants to come in, as far as is known. Nothing of it is a secret.
#[derive(Clone)]
pub struct Caller {
    /// Its address.
    pub ip: IpAddr,
    origin: Option<HeaderValue>,
    user: Option<UserId>,
    client: Option<ClientId>,
}

impl Caller {
    /// Who has sent a request. `peer` is whoever is on the other end, perhaps a proxy.
    pub fn of<B>(request: &Request<B>, peer: IpAddr, ports: &Ports) -> Self {
        let ip = peer::client_ip(peer, request.headers(), &ports.trusted_proxies);
        Self { ip, origin: cors::origin_of(request), user: None, client: None }
    }

    /// It says who it is. What is no id is not told: it may be anything.
    pub fn says(&mut self, hello: &Hello) {
        self.user = hello.user().ok().flatten();
        self.client = hello.client_id.as_deref().and_then(|client| client.parse().ok());
    }

    /// It is known who it is.
    pub fn is(&mut self, identity: &Identity) {
        (self.user, self.client) = (Some(identity.user.clone()), Some(identity.client.clone()));
    }
}

/// What was told when.
#[derive(Default)]
pub struct TurnedAway {
    clients: [Mutex<Retold>; Code::ALL.len()],
    workers: Mutex<Retold>,
}

impl Ports {
    /// Counts and tells that a client is not let in.
    pub fn turned_away(&self, refusal: &Refusal, caller: &Caller) {
        let (code, reason, router) = (refusal.code, &refusal.message, &self.router);
        router.metrics().turned_away(code);
        let Caller { ip, origin, user, client } = caller;
        let origin = origin.as_ref().map(|origin| String::from_utf8_lossy(origin.as_bytes()));
        let origin = origin.as_ref().map(|origin| origin.chars().take(MOST_OF_ORIGIN).collect::<String>());
        let (user, client) = (user.as_ref().map(UserId::as_str), client.as_ref().map(ClientId::as_str));
        let node = router.node();
        debug!(%node, user, client, %ip, origin, %code, reason, "a client was turned away");
        // Probes get these two as well, for as long as they run.
        if !matches!(code, Code::UpgradeRequired | Code::NotFound)
            && let Some(times) = lock(&self.turned_away.clients[code as usize]).again()
        {
            info!(%node, user, client, %ip, origin, %code, reason, times, "clients are turned away; this is the last one");
        }
    }

    /// Tells that somebody without a good token came to the worker port. `peer` is whoever is on the other end.
    pub fn worker_turned_away(&self, peer: IpAddr) {
        let (node, ip) = (self.router.node(), peer.to_canonical());
        debug!(%node, %ip, "a request without a good worker token was turned away");
        if let Some(times) = lock(&self.turned_away.workers).again() {
            info!(%node, %ip, times, "requests without a good worker token are turned away; this is the last one");
        }
    }
}
