//! What operators ask: how everything stands, and the steps of one user.

use std::time::Duration;

use switchboard::engine::{Connected, Mode, Told};
use switchboard::id::EventId;
use switchboard::trace::{KEPT, MAX_USERS};

use crate::recorder::Recorder;
use crate::stage::{Kind, Stage, event, user};

crate::on_both_engines!(
    the_status_counts_users_and_sessions,
    a_user_who_is_followed_has_steps_and_others_have_none,
    no_more_than_so_many_are_followed,
    who_is_followed_keeps_their_steps_however_many_others_were,
    steps_lapse_after_the_last_of_them,
);

/// The steps of a user after a place, once there are `count` of them.
async fn steps(stage: &Stage, id: &str, after: EventId, count: usize) -> Vec<Vec<(String, String)>> {
    let mut steps = Vec::new();
    Recorder::eventually("the steps", async || {
        steps = stage.engine.traces(user(id), after).await.unwrap();
        steps.len() >= count
    })
    .await;
    steps.into_iter().map(|step| step.fields.into_iter().collect()).collect()
}

async fn the_status_counts_users_and_sessions(kind: Kind) {
    let stage = kind.stage().await;
    for (id, client) in [("1", "a"), ("1", "b"), ("2", "a")] {
        stage.connect(&user(id), client).await;
    }
    let status = stage.engine.status().await.unwrap();
    let nodes = status.nodes.unwrap();
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0].users, Some(2));
    assert!(nodes[0].started.is_some_and(|started| status.time >= started));
    assert_eq!(status.streams.is_some(), matches!(kind, Kind::Redis));
    stage.disconnect(&user("2"), "a", None).await;
    assert_eq!(stage.engine.status().await.unwrap().nodes.unwrap()[0].users, Some(1));
}

/// One server, but the same as where the master of some keys is away: those of others are told all the same.
#[tokio::test]
async fn the_status_tells_what_can_be_read() {
    let stage = Kind::Redis.stage().await;
    stage.connect(&user("1"), "a").await;
    let broken = async |key: &str| {
        let () = stage.ask(&["DEL", key]);
        let () = stage.ask(&["SET", key, "x"]);
        stage.engine.status().await.unwrap()
    };
    let status = broken("uplink").await;
    let streams = status.streams.unwrap();
    assert_eq!((streams.uplink, streams.dead, streams.presence), (None, Some(0), Some(1)));
    let status = broken("users:{node:node-1}").await;
    let node = &status.nodes.unwrap()[0];
    assert_eq!((node.users, node.sessions), (None, Some(0)));
    assert!(node.inbox.is_some() && node.started.is_some(), "{node:?}");
    let status = broken("node:node-1").await;
    let node = &status.nodes.unwrap()[0];
    assert_eq!((&*node.node_id, &node.version, node.sessions, node.started), ("node-1", &None, None, None));
    stage.engine.nodes().await.expect_err("a list that leaves out a live node");
    let status = broken("nodes").await;
    assert_eq!((status.nodes, status.streams.unwrap().dead), (None, Some(0)));
}

async fn a_user_who_is_followed_has_steps_and_others_have_none(kind: Kind) {
    let stage = kind.stage().await;
    let after = stage.engine.trace(user("1"), Some(Duration::from_secs(60))).await.unwrap().unwrap();
    let id = stage.publish_plain(&user("1"), "1").await;
    stage.publish_plain(&user("2"), "1").await;
    let mut keyed = event(&user("1"), "2");
    keyed.key = Some("k".parse().unwrap());
    (keyed.client, keyed.collapse) = (Some("tab".parse().unwrap()), Some("p".parse().unwrap()));
    stage.publish(keyed.clone()).await;
    stage.publish(keyed).await;
    let steps = steps(&stage, "1", after, 3).await;
    let value = |step: usize, name: &str| {
        steps[step].iter().find(|(its, _)| its == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    assert_eq!((value(0, "step"), value(0, "id"), value(0, "event")), ("published", &*id.to_string(), "e"));
    assert_eq!((value(0, "client"), value(1, "client"), value(1, "collapse")), ("", "tab", "p"));
    assert_eq!((value(1, "again"), value(2, "again")), ("", "1"), "the second of one key");
    assert_eq!(value(1, "id"), value(2, "id"));
    assert_eq!(stage.engine.traces(user("2"), EventId::ZERO).await.unwrap(), []);

    stage.engine.trace(user("1"), None).await.unwrap();
    stage.publish_plain(&user("1"), "3").await;
    stage.engine.trace(user("2"), Some(Duration::from_secs(60))).await.unwrap();
    stage.publish_plain(&user("2"), "3").await;
    self::steps(&stage, "2", EventId::ZERO, 1).await;
    assert_eq!(stage.engine.traces(user("1"), after).await.unwrap().len(), 3, "nobody follows any more");
}

async fn no_more_than_so_many_are_followed(kind: Kind) {
    let stage = kind.stage().await;
    let follow = |id: String| stage.engine.trace(user(&id), Some(Duration::from_secs(60)));
    for number in 0..MAX_USERS {
        assert!(follow(number.to_string()).await.unwrap().is_some(), "{number}");
    }
    assert!(follow("one-more".to_owned()).await.unwrap().is_none());
    assert!(follow("7".to_owned()).await.unwrap().is_some(), "it is one of them");
    stage.engine.trace(user("7"), None).await.unwrap();
    assert!(follow("one-more".to_owned()).await.unwrap().is_some());
}

/// Follows a user for longer than steps last, and publishes one event to them.
async fn followed(stage: &Stage, id: &str) {
    stage.engine.trace(user(id), Some(3 * KEPT)).await.unwrap().unwrap();
    stage.publish_plain(&user(id), "1").await;
}

async fn who_is_followed_keeps_their_steps_however_many_others_were(kind: Kind) {
    let stage = kind.stage().await;
    followed(&stage, "live").await;
    for number in 0..MAX_USERS {
        let id = format!("old-{number}");
        followed(&stage, &id).await;
        stage.engine.trace(user(&id), None).await.unwrap();
    }
    let last = format!("old-{}", MAX_USERS - 1);
    assert_eq!(steps(&stage, &last, EventId::ZERO, 1).await.len(), 1);
    assert_eq!(steps(&stage, "live", EventId::ZERO, 1).await.len(), 1);
    if kind == Kind::Memory {
        assert_eq!(stage.engine.traces(user("old-0"), EventId::ZERO).await.unwrap(), [], "it made room");
    }
}

async fn steps_lapse_after_the_last_of_them(kind: Kind) {
    let stage = kind.stage().await;
    followed(&stage, "1").await;
    steps(&stage, "1", EventId::ZERO, 1).await;
    // Half of their time: of Redis by its own word, since nobody waits so long.
    match kind {
        Kind::Memory => stage.time_passes(KEPT / 2).await,
        Kind::Redis => {
            let half = (KEPT / 2).as_millis().to_string();
            assert_eq!(stage.ask::<i64>(&["PEXPIRE", "traces:{user:1}", &half]), 1);
        }
    }
    stage.publish_plain(&user("1"), "2").await;
    steps(&stage, "1", EventId::ZERO, 2).await;
    match kind {
        Kind::Memory => {
            stage.time_passes(KEPT * 3 / 4).await;
            let kept = stage.engine.traces(user("1"), EventId::ZERO).await.unwrap().len();
            assert_eq!(kept, 2, "the last one renews them");
            stage.time_passes(KEPT / 2).await;
            assert_eq!(stage.engine.traces(user("1"), EventId::ZERO).await.unwrap(), []);
        }
        Kind::Redis => {
            Recorder::eventually("the last one to renew them", async || {
                let left: u128 = stage.ask(&["PTTL", "traces:{user:1}"]);
                left > (KEPT * 3 / 4).as_millis() && left <= KEPT.as_millis()
            })
            .await;
        }
    }
}

/// The node that holds them may be frozen, and be cleared up after before it hears of it.
#[tokio::test]
async fn who_was_signed_out_does_not_resume_and_may_come_back() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let resume = async |client: &str, order: u64| {
        stage
            .try_connect(&user, client, Mode::Resume { order, told: Told::default() }, Some(EventId::ZERO))
            .await
    };
    let (one, other) = (stage.connect(&user, "one").await.order, stage.connect(&user, "other").await.order);
    stage.engine.sign_out(user.clone(), Some("one".parse().unwrap())).await.unwrap();
    assert!(matches!(resume("one", one).await, Connected::SignedOut));
    assert!(matches!(resume("other", other).await, Connected::Registered(_)));
    // It was signed out then, not for ever.
    stage.disconnect(&user, "one", None).await;
    let again = stage.connect(&user, "one").await.order;
    assert!(matches!(resume("one", again).await, Connected::Registered(_)));

    stage.engine.sign_out(user.clone(), None).await.unwrap();
    for client in ["one", "other"] {
        assert!(matches!(resume(client, again).await, Connected::SignedOut), "{client}");
    }
    // However often, what is remembered of it is bounded, and the newest counts.
    let noted = || stage.ask::<String>(&["HGET", "cursor:{user:42}", "@out"]);
    assert_eq!(noted().split(' ').count(), 2, "all of them, once: {}", noted());
    let sign_out = async |client: &str| {
        stage.engine.sign_out(user.clone(), Some(client.parse().unwrap())).await.unwrap();
    };
    for number in 0..300 {
        let client = format!("c-{number}");
        let _: i64 = stage.ask(&["HSET", "cursor:{user:42}", &client, "1-0"]); // left by an earlier session
        sign_out(&client).await;
    }
    assert_eq!(noted().split(' ').count(), 2 * 256, "{}", noted());
    assert!(matches!(resume("c-299", again).await, Connected::SignedOut));
    let before = noted();
    sign_out("nobody").await;
    assert_eq!(noted(), before, "who never was there takes nobody's place");
}

/// Redis came back without its data, and the session has not registered anew yet: nothing is known of it.
#[tokio::test]
async fn a_sign_out_is_remembered_of_whom_redis_has_forgotten() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let session = stage.connect(&user, "tab").await;
    let () = stage.ask(&["DEL", "user:42", "nodes:{user:42}", "cursor:{user:42}"]);
    stage.connect(&user, "other").await;
    stage.engine.sign_out(user.clone(), Some("tab".parse().unwrap())).await.unwrap();
    let mode = Mode::Resume { order: session.order, told: Told::default() };
    let resumed = stage.try_connect(&user, "tab", mode, Some(session.position)).await;
    assert!(matches!(resumed, Connected::SignedOut));
}
