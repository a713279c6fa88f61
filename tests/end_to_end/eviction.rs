//! A Redis that may throw keys away: said aloud, at the start and later.

use crate::support::pair::Single;
use crate::support::wait::same;
use crate::support::{BOUND, Node, NodeBuilder, RedisServer, Scrape, eventually, http};
use redis::cmd;

async fn server_with(policy: &str) -> RedisServer {
    let redis = RedisServer::start().await;
    set_policy(&redis, policy).await;
    redis
}

async fn set_policy(redis: &RedisServer, policy: &str) {
    redis.db().await.run::<()>(cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg(policy)).await;
}

async fn ready_body(node: &Node, what: &str, fits: impl Fn(&str) -> bool) {
    eventually(BOUND, what, async || {
        let answer = http::try_get(&node.worker_http("/readyz")).await?;
        if answer.status == 200 && fits(&answer.body) { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

/// Its log may come a moment after its answer; one warning more than wanted stays one more.
async fn warned(node: &Node, times: usize) {
    let warns = |line: &&String| line.contains("\"WARN\"") && line.contains("may evict");
    eventually(BOUND, "a warning for each time", async || {
        same(node.lines().iter().filter(warns).count(), times)
    })
    .await;
}

#[tokio::test]
async fn a_policy_that_evicts_is_warned_of_once_until_it_is_mended() {
    let redis = server_with("allkeys-lru").await;
    let node = NodeBuilder::redis("node-a", &redis).set("--session-ttl", "1s").start().await;
    ready_body(&node, "a warning", |body| {
        body.starts_with("ready\nwarning: ") && body.contains("allkeys-lru")
    })
    .await;
    assert_eq!(Scrape::of(&node).await.get("redis_may_evict"), 1.0);
    warned(&node, 1).await;
    set_policy(&redis, "noeviction").await;
    ready_body(&node, "no warning", |body| body == "ready\n").await;
    assert_eq!(Scrape::of(&node).await.get("redis_may_evict"), 0.0);
    // Also one that only takes keys with a TTL: logs have one.
    set_policy(&redis, "volatile-lfu").await;
    ready_body(&node, "a warning", |body| body.contains("volatile-lfu")).await;
    warned(&node, 2).await;
}

#[tokio::test]
async fn it_is_known_where_config_is_not_allowed() {
    let redis = server_with("allkeys-random").await;
    let mut acl = cmd("ACL");
    acl.arg(&["SETUSER", "careful", "on", ">pw", "~*", "&*", "+@all", "-config"]);
    redis.db().await.run::<()>(&acl).await;
    let url = format!("redis://careful:pw@127.0.0.1:{}", redis.port());
    let node = NodeBuilder::redis("careful", &redis).set("--redis-url", &url).start().await;
    ready_body(&node, "a warning", |body| body.contains("allkeys-random")).await;
    warned(&node, 1).await;
}

#[tokio::test]
async fn a_redis_that_keeps_everything_is_not_warned_of() {
    let node = &Single::start().await.a;
    ready_body(node, "no warning", |body| body == "ready\n").await;
    warned(node, 0).await;
    assert_eq!(Scrape::of(node).await.get("redis_may_evict"), 0.0);
}
