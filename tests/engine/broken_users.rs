//! One user's key that is not as the relay left it: an application has written to it, or its own is of that name.
//! Everybody else is served.

use std::fmt::Debug;

use futures_util::future::join_all;
use switchboard::engine::{Claim, Connect, Disconnect, LeaseState, Mode, Unavailable, UserLease};
use switchboard::id::{EventId, UserId};

use crate::stage::{Kind, Stage, client, event, user};

/// Each of a user's keys, and one that holds what a script stumbles over.
const BREAK: [&[&str]; 5] = [
    &["SET", "user:42", "x"],
    &["SET", "nodes:{user:42}", "x"],
    &["SET", "log:{user:42}", "x"],
    &["SET", "cursor:{user:42}", "x"],
    &["HSET", "cursor:{user:42}", "tab", "no position"],
];

fn ends(users: &[UserId]) -> Vec<Disconnect> {
    let confirmed = Some(EventId { ms: 1, seq: 0 });
    let end = |user: &UserId| Disconnect { user: user.clone(), client: client("tab"), confirmed };
    users.iter().map(end).collect()
}

/// Users on a node, 42 among them. What is done to the key of 42 is done before, or after they come.
async fn crowd(stage: &Stage, breaks: &[&str], before: bool) -> Vec<UserId> {
    let users = ["1", "42", "3"].map(user);
    let () = stage.ask(&["DEL", "user:42", "nodes:{user:42}", "log:{user:42}", "cursor:{user:42}"]);
    for user in &users {
        if user.as_str() == "42" && before {
            let () = stage.ask(breaks);
            let (user, client, mode) = (user.clone(), client("tab"), Mode::New);
            let connect = Connect { user, client, mode, since: None, confirmed: None };
            stage.engine.connect(connect).await.unwrap_err();
        } else {
            stage.connect(user, "tab").await;
        }
    }
    if !before {
        let () = stage.ask(breaks);
    }
    users.into()
}

/// Users 1 and 3 are served, and 42 is told of its key, of all that is asked for at once.
fn assert_others<T: Debug>(done: &[Result<T, Unavailable>], breaks: &[&str]) {
    assert!(matches!(done, [Ok(_), Err(_), Ok(_)]), "{breaks:?}: {done:?}");
}

#[tokio::test]
async fn coming() {
    let stage = Kind::Redis.stage().await;
    for (number, breaks) in BREAK.into_iter().enumerate() {
        let () = stage.ask(&["DEL", "user:42", "nodes:{user:42}", "log:{user:42}", "cursor:{user:42}"]);
        let () = stage.ask(breaks);
        // All are queued before any is done.
        let connects = ["1", "42", "3"].map(|id| Connect {
            user: user(id),
            client: client("tab"),
            mode: Mode::New,
            since: None,
            confirmed: None,
        });
        let connected = join_all(connects.into_iter().map(|connect| stage.engine.connect(connect))).await;
        assert_others(&connected, breaks);
        for id in ["1", "3"] {
            assert_eq!(stage.sessions(&user(id)).await, ["tab@node-1"], "{breaks:?}");
            stage.disconnect(&user(id), "tab", None).await;
            let online = stage.edges_of(id).iter().filter(|state| *state == "online").count();
            assert_eq!(online, number + 1, "{id}: {breaks:?}");
        }
    }
}

#[tokio::test]
async fn getting_events() {
    let stage = Kind::Redis.stage().await;
    for breaks in [BREAK[1], BREAK[2]] {
        let users = crowd(&stage, breaks, false).await;
        let published = join_all(users.iter().map(|user| stage.engine.publish(event(user, "1")))).await;
        assert_others(&published, breaks);
    }
}

async fn assert_gone(stage: &Stage, users: &[UserId], what: &str) {
    for user in users.iter().filter(|user| user.as_str() != "42") {
        assert_eq!(stage.sessions(user).await, Vec::<String>::new(), "{what}");
        assert_eq!(stage.edges_of(user.as_str()).last().unwrap(), "offline", "{what}");
    }
}

#[tokio::test]
async fn leaving() {
    let stage = Kind::Redis.stage().await;
    for breaks in BREAK {
        let users = crowd(&stage, breaks, false).await;
        // All are queued before any is done.
        let ended = join_all(ends(&users).into_iter().map(|end| stage.engine.disconnect(end))).await;
        assert!(ended.iter().all(Result::is_ok), "{breaks:?}: {ended:?}");
        assert_gone(&stage, &users, &format!("{breaks:?}")).await;
    }
}

#[tokio::test]
async fn leaving_after_being_refused() {
    let stage = Kind::Redis.stage().await;
    let users = crowd(&stage, &["HSET", "user:42", "name", "Ada"], true).await;
    let ended = join_all(ends(&users).into_iter().map(|end| stage.engine.disconnect(end))).await;
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    assert_gone(&stage, &users, "leaving").await;
    assert_eq!(stage.ask::<Vec<String>>(&["HGETALL", "user:42"]), ["name", "Ada"]);
}

#[tokio::test]
async fn clearing_up_after_a_dead_node() {
    for breaks in BREAK {
        let dead = Kind::Redis.stage().await;
        let users = crowd(&dead, breaks, false).await;
        let survivor = dead.survivor().await;
        survivor.engine.clear_up().await.unwrap_or_else(|error| panic!("{breaks:?}: {error}"));
        assert_gone(&survivor, &users, &format!("{breaks:?}")).await;
        assert_eq!(survivor.engine.nodes().await.unwrap().len(), 1, "{breaks:?}");
    }
}

#[tokio::test]
async fn a_start_with_an_id_that_was_not_given_back_and_its_release() {
    for breaks in BREAK {
        let dead = Kind::Redis.stage().await;
        let users = crowd(&dead, breaks, false).await;
        let () = dead.ask(&["DEL", "node:node-1"]);
        let next = dead.another_process("node-1");
        assert_eq!(next.engine.claim().await.unwrap(), Claim::Held, "{breaks:?}");
        assert_gone(&next, &users, &format!("{breaks:?}")).await;
        let users = crowd(&next, breaks, false).await;
        next.engine.release().await.unwrap();
        assert_eq!(dead.ask::<i64>(&["EXISTS", "node:node-1", "users:{node:node-1}"]), 0, "{breaks:?}");
        let other = dead.another("node-2").await;
        assert_gone(&other, &users, &format!("{breaks:?}")).await;
    }
}

#[tokio::test]
async fn renewing_leases() {
    let stage = Kind::Redis.stage().await;
    for breaks in [BREAK[1], BREAK[3]] {
        let users = crowd(&stage, breaks, false).await;
        let lease = |user: &UserId| UserLease { user: user.clone(), confirmed: Vec::new() };
        let states = stage.engine.heartbeat(users.iter().map(lease).collect()).await.unwrap();
        assert!(
            matches!(
                states[..],
                [LeaseState::Renewed { .. }, LeaseState::Unknown, LeaseState::Renewed { .. }]
            ),
            "{breaks:?}: {states:?}"
        );
        // Nor is it an outage where they are alone: what comes after them in a round is renewed.
        assert_eq!(stage.heartbeat(&users[1], &[]).await, LeaseState::Unknown, "{breaks:?}");
    }
}

/// What Redis refuses everyone is tried again, as ever: no session may be given up for it.
#[tokio::test]
async fn a_redis_that_takes_no_writes_breaks_nobody() {
    let stage = Kind::Redis.stage().await;
    let user = user("1");
    stage.connect(&user, "tab").await;
    let () = stage.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let end = || ends(std::slice::from_ref(&user)).remove(0);
    stage.engine.disconnect(end()).await.unwrap_err();
    let leases = vec![UserLease { user: user.clone(), confirmed: Vec::new() }];
    stage.engine.heartbeat(leases).await.unwrap_err();
    let () = stage.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    stage.engine.disconnect(end()).await.unwrap();
    assert_gone(&stage, &[user], "when it does again").await;
}
