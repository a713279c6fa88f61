//! What a test asks Redis, as an operator with redis-cli would.

use std::collections::{BTreeMap, BTreeSet};

use redis::aio::MultiplexedConnection;
use redis::streams::StreamRangeReply;
use redis::{Cmd, FromRedisValue, Pipeline, cmd};

use super::wait::{BOUND, eventually, same};

/// One entry of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub id: String,
    pub fields: BTreeMap<String, String>,
}

/// A connection to the test's Redis.
#[derive(Clone)]
pub struct Db {
    connection: MultiplexedConnection,
}

impl Entry {
    /// A field's value; panics with the whole entry where it is missing.
    pub fn get(&self, field: &str) -> &str {
        self.fields.get(field).unwrap_or_else(|| panic!("no field `{field}` in {self:?}"))
    }
}

impl Db {
    pub fn new(connection: MultiplexedConnection) -> Self {
        Self { connection }
    }

    /// Runs a command; panics with it where Redis refuses.
    pub async fn run<T: FromRedisValue>(&mut self, command: &Cmd) -> T {
        let answer = command.query_async(&mut self.connection).await;
        answer.unwrap_or_else(|error| panic!("redis answered {error}"))
    }

    pub async fn run_pipeline<T: FromRedisValue>(&mut self, pipeline: &Pipeline) -> T {
        let answer = pipeline.query_async(&mut self.connection).await;
        answer.unwrap_or_else(|error| panic!("redis answered {error}"))
    }

    pub async fn exists(&mut self, key: &str) -> bool {
        self.run(cmd("EXISTS").arg(key)).await
    }

    /// Members of a set; empty where there is no such key.
    pub async fn members(&mut self, key: &str) -> BTreeSet<String> {
        self.run(cmd("SMEMBERS").arg(key)).await
    }

    /// Fields of a hash; empty where there is no such key.
    pub async fn hash(&mut self, key: &str) -> BTreeMap<String, String> {
        self.run(cmd("HGETALL").arg(key)).await
    }

    /// `set`, `hash`, `stream`, … or `none`.
    pub async fn kind(&mut self, key: &str) -> String {
        self.run(cmd("TYPE").arg(key)).await
    }

    /// Milliseconds to live; -1 for a key without an end, -2 for no key.
    pub async fn ttl_ms(&mut self, key: &str) -> i64 {
        self.run(cmd("PTTL").arg(key)).await
    }

    /// All keys, in order. `KEYS` is fine here: the server is the test's own.
    pub async fn keys(&mut self) -> Vec<String> {
        let mut keys: Vec<String> = self.run(cmd("KEYS").arg("*")).await;
        keys.sort();
        keys
    }

    /// All entries of a stream; empty where there is no such key.
    pub async fn stream(&mut self, key: &str) -> Vec<Entry> {
        self.stream_from(key, "-").await
    }

    /// The entries of a stream from this id on, or after it: `(id`.
    pub async fn stream_from(&mut self, key: &str, from: &str) -> Vec<Entry> {
        let reply: StreamRangeReply = self.run(cmd("XRANGE").arg(key).arg(from).arg("+")).await;
        let text = |value: &redis::Value| redis::from_redis_value_ref(value).expect("text");
        let entries = reply.ids.iter().map(|entry| Entry {
            id: entry.id.clone(),
            fields: entry.map.iter().map(|(field, value)| (field.clone(), text(value))).collect(),
        });
        entries.collect()
    }

    /// The ids of a user's log.
    pub async fn log_ids(&mut self, user: &str) -> Vec<String> {
        let entries = self.stream(&format!("log:{{user:{user}}}")).await;
        entries.into_iter().map(|entry| entry.id).collect()
    }

    /// `XADD key * field value …`; gives the entry's id.
    pub async fn xadd(&mut self, key: &str, fields: &[(&str, &str)]) -> String {
        let mut command = cmd("XADD");
        command.arg(key).arg("*");
        for (field, value) in fields {
            command.arg(field).arg(value);
        }
        self.run(&command).await
    }

    /// Publishes the numbers `first..=last` to a user through the ingress stream, one after the other.
    pub async fn count(&mut self, user: &str, first: usize, last: usize) {
        for number in first..=last {
            self.xadd("events", &[("user", user), ("event", "e"), ("data", &number.to_string())]).await;
        }
    }

    /// Waits until no session of a user is left: its last word on positions has been written by then.
    pub async fn offline(&mut self, user: &str) {
        let key = format!("user:{user}");
        eventually(BOUND, "an offline user", async || same(self.exists(&key).await, false)).await;
    }

    /// The states that `presence` tells of a user, oldest first.
    pub async fn presence(&mut self, user: &str) -> Vec<String> {
        let entries = self.stream("presence").await;
        let of_user = entries.iter().filter(|entry| entry.get("user") == user);
        of_user.map(|entry| entry.get("state").to_owned()).collect()
    }

    /// Waits until Redis has refused something in these words, so often.
    pub async fn refused(&mut self, word: &str, times: u64) {
        eventually(BOUND, "Redis refusing again and again", async || {
            let told: String = self.run(&redis::cmd("INFO")).await;
            let count = |word: &str| {
                let count = told.split_once(&format!("errorstat_{word}:count=")).map(|(_, rest)| rest);
                count.and_then(|rest| rest.split(['\r', ',']).next()).unwrap_or("0").parse::<u64>().unwrap()
            };
            // What it refuses a script has another word before Redis 7.
            let in_scripts = if told.contains("redis_version:6.") { count("ERR") } else { 0 };
            if count(word) + in_scripts >= times { Ok(()) } else { Err(told) }
        })
        .await;
    }
}

/// A set of strings, for comparing with [`Db::members`].
pub fn set<const N: usize>(members: [&str; N]) -> BTreeSet<String> {
    members.into_iter().map(str::to_owned).collect()
}
