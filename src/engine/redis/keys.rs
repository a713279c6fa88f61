//! Every key name. Nothing else in the program spells one.
//!
//! Redis Cluster hashes `user:<id>` whole and the braces of its companions, so all keys of a user share a slot,
//! and so do a node's. There the prefix must stand within the braces too: see [`Keys::new`].

use std::fmt;
use std::io::Write as _;

use redis::{RedisWrite, ToRedisArgs};

use crate::id::{NodeId, UserId};

/// The ingress stream where `--ingress` names no other.
pub const EVENTS: &str = "events";

/// What a key begins with, after the prefix and before the first colon: all but that of [`Keys::ingress`]. Of
/// [`Keys::dead`] the whole, because `events:2` is a good name of a stream.
const FAMILIES: [&str; 13] = [
    "user", "nodes", "log", "cursor", "node", "inbox", "users", "traced", "traces", "drain", "uplink",
    "presence", "since",
];
const DEAD: &str = "events:dead";

/// Whether an ingress stream of this name could be another key.
pub fn is_taken(stream: &str) -> bool {
    let family = stream.split_once(':').map_or(stream, |(family, _)| family);
    FAMILIES.contains(&family) || stream == DEAD
}

/// A key in its parts. Scripts take users' by the hundred: each is spelt into the command, without a text of its own.
#[derive(Debug, Clone, Copy)]
pub struct Key<'a>([&'a str; 6]);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| f.write_str(part))
    }
}

impl ToRedisArgs for Key<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        let mut key = out.writer_for_next_arg();
        for part in self.0 {
            let _ = key.write_all(part.as_bytes()); // into memory
        }
    }
}

/// Spells keys, with the prefix that the operator chose.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: Box<str>,
    /// Put before what stands in braces.
    within: Box<str>,
}

impl Keys {
    /// Keys that begin with `prefix`, which may be empty. On a Cluster `app:user:42` is hashed whole, so its log is
    /// `app:log:{app:user:42}`.
    pub fn new(prefix: &str, cluster: bool) -> Self {
        Self { prefix: prefix.into(), within: if cluster { prefix } else { "" }.into() }
    }

    fn companion<'a>(&'a self, before: &'static str, of: &'static str, id: &'a str) -> Key<'a> {
        Key([&self.prefix, before, &self.within, of, id, "}"])
    }

    fn plain(&self, name: &str) -> String {
        [&*self.prefix, name].concat()
    }

    /// SET of `<clientId>@<nodeId>`: who is connected where.
    pub fn user<'a>(&'a self, user: &'a UserId) -> Key<'a> {
        Key([&self.prefix, "user:", user.as_str(), "", "", ""])
    }

    /// HASH nodeId → lease end; `@last`: newest event id.
    pub fn nodes_of<'a>(&'a self, user: &'a UserId) -> Key<'a> {
        self.companion("nodes:{", "user:", user.as_str())
    }

    /// STREAM: the user's events.
    pub fn log<'a>(&'a self, user: &'a UserId) -> Key<'a> {
        self.companion("log:{", "user:", user.as_str())
    }

    /// HASH clientId → confirmed id; `@…`: what the scripts remember of the log.
    pub fn cursor<'a>(&'a self, user: &'a UserId) -> Key<'a> {
        self.companion("cursor:{", "user:", user.as_str())
    }

    /// HASH: a live node.
    pub fn node(&self, node: &str) -> String {
        self.plain(&format!("node:{node}"))
    }

    /// STREAM, group `node`: events on their way to the node's sockets.
    pub fn inbox(&self, node: &str) -> String {
        self.companion("inbox:{", "node:", node).to_string()
    }

    /// What stands before a node's id in [`Keys::inbox`], for a script that makes more than one of them; a brace follows.
    /// As long as what stands before a user's id in [`Keys::nodes_of`]: the script goes by that.
    pub fn before_node(&self) -> String {
        [&*self.prefix, "inbox:{", &self.within, "node:"].concat()
    }

    /// SET of user ids: whom the node serves.
    pub fn users(&self, node: &NodeId) -> String {
        self.companion("users:{", "node:", node.as_str()).to_string()
    }

    /// ZSET user id → Unix ms until which the user is followed.
    pub fn traced(&self) -> String {
        self.plain("traced")
    }

    /// STREAM: the steps of a user who is followed.
    pub fn traces<'a>(&'a self, user: &'a UserId) -> Key<'a> {
        self.companion("traces:{", "user:", user.as_str())
    }

    /// ZSET nodeId → lease end: all live nodes.
    pub fn nodes(&self) -> String {
        self.plain("nodes")
    }

    /// HASH: who leaves until when, and when the next client comes back.
    pub fn drain(&self) -> String {
        self.plain("drain")
    }

    /// STREAM, group `switchboard`: anyone may publish here. [`EVENTS`], or another that `--ingress` names.
    pub fn ingress(&self, stream: &str) -> String {
        self.plain(stream)
    }

    /// STREAM: ingress entries that could not be routed.
    pub fn dead(&self) -> String {
        self.plain(DEAD)
    }

    /// STREAM: what clients send upward.
    pub fn uplink(&self) -> String {
        self.plain("uplink")
    }

    /// STREAM: first session opened, last session gone.
    pub fn presence(&self) -> String {
        self.plain("presence")
    }

    /// STRING, on a Cluster alone, one on each master: Unix ms since when its data are known to be whole. `number` is
    /// the least that makes it fall on that master.
    pub fn mark(&self, number: u32) -> String {
        self.companion("since:{", "master:", &number.to_string()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::redis::slot::Slot;

    #[test]
    fn all_keys_of_a_user_share_a_slot_and_so_do_those_of_a_node() {
        let (user, node): (UserId, NodeId) = ("42".parse().unwrap(), "a".parse().unwrap());
        for prefix in ["", "app:"] {
            let keys = Keys::new(prefix, true);
            let slot = |key: String| Slot::of(key.as_bytes());
            let companions = [keys.nodes_of(&user), keys.log(&user), keys.cursor(&user)];
            assert!(
                companions.into_iter().all(|key| slot(key.to_string()) == slot(keys.user(&user).to_string())),
                "{prefix}"
            );
            let companions = [keys.inbox("a"), keys.users(&node)];
            assert!(companions.into_iter().all(|key| slot(key) == slot(keys.node("a"))), "{prefix}");
        }
        assert_eq!(Keys::new("app:", false).log(&user).to_string(), "app:log:{user:42}");
        let keys = Keys::new("app:", false);
        assert_eq!(keys.before_node() + "a}", keys.inbox("a"));
        assert_eq!(keys.nodes_of(&user).to_string()[keys.before_node().len()..], *"42}");
        assert_eq!(Keys::new("app:", true).log(&user).to_string(), "app:log:{app:user:42}");
    }

    /// Every key that goes with a user, and every key that goes with a node.
    fn of_user(keys: &Keys, user: &UserId) -> [String; 5] {
        [keys.user(user), keys.nodes_of(user), keys.log(user), keys.cursor(user), keys.traces(user)]
            .map(|key| key.to_string())
    }

    fn of_node(keys: &Keys, node: &NodeId) -> [String; 3] {
        [keys.node(node.as_str()), keys.inbox(node.as_str()), keys.users(node)]
    }

    /// Text that looks like keys: what is accepted as an id of it is as awkward as an id can be.
    fn awkward() -> impl Strategy<Value = String> {
        let parts = prop::sample::select(vec![
            "user:", "nodes:", "node:", "log:", "inbox:", "users:", "cursor:", "traces:", "since:", "events",
            "dead", "uplink", "@", "{", "}", ":", "%7D", "a", "1", "-", "/", "*", "?", "[", "\\", "\n", " ",
            ",", "\u{e9}",
        ]);
        prop::collection::vec(parts, 1..6).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn no_id_reaches_a_key_of_anyone_else(names in prop::collection::vec(awkward(), 2..8), prefix in "[a-z:]{0,4}", cluster: bool) {
            let keys = Keys::new(&prefix, cluster);
            let mut owners = HashMap::new();
            let everyones = [keys.nodes(), keys.traced(), keys.drain(), keys.mark(1), keys.dead(), keys.uplink(), keys.presence()];
            for key in everyones.into_iter().chain([keys.ingress(EVENTS)]) {
                owners.insert(key, "everyone".to_owned());
            }
            for name in &names {
                let user = name.parse::<UserId>().map(|user| of_user(&keys, &user).to_vec());
                let node = name.parse::<NodeId>().map(|node| of_node(&keys, &node).to_vec());
                for (kind, its) in [("user", user), ("node", node)] {
                    let owner = format!("{kind} {name}");
                    for key in its.into_iter().flatten() {
                        let former = owners.insert(key.clone(), owner.clone());
                        prop_assert!(former.as_ref().is_none_or(|former| *former == owner), "{key} is {former:?}'s and {owner}'s");
                    }
                }
            }
            for key in owners.keys().map(|key| &key[prefix.len()..]) {
                prop_assert!(is_taken(key) != (key == EVENTS), "{key}");
            }
        }

        #[test]
        fn all_keys_of_one_user_share_a_slot_however_odd_its_id_is(name in awkward(), prefix in "[a-z:]{0,4}") {
            let keys = Keys::new(&prefix, true);
            let slots = |its: &[String]| its.iter().map(|key| Slot::of(key.as_bytes())).collect::<Vec<_>>();
            if let Ok(user) = name.parse::<UserId>() {
                let slots = slots(&of_user(&keys, &user));
                prop_assert!(slots.iter().all(|slot| *slot == slots[0]), "{slots:?}");
            }
            if let Ok(node) = name.parse::<NodeId>() {
                let slots = slots(&of_node(&keys, &node));
                prop_assert!(slots.iter().all(|slot| *slot == slots[0]), "{slots:?}");
            }
        }
    }
}
