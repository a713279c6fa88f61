//! Sessions as others see them, leases, and what goes to every node.

use std::time::Duration;

use switchboard::engine::{Claim, Connect, Disconnect, LeaseState, MAX_BEATS, Mode, Uplink, UserLease};
use switchboard::id::{EventId, UserId};
use switchboard::protocol::publish::Data;

use crate::recorder::Told;
use crate::stage::{Kind, Stage, client, event, user};

crate::on_both_engines!(
    sessions_are_listed_by_client,
    online_keeps_the_order_asked_for,
    a_disconnect_may_be_repeated,
    no_end_is_refused_however_many_come_at_once,
    a_heartbeat_tells_the_newest_event,
    a_heartbeat_answers_each_user_in_its_place,
    a_sign_out_reaches_the_node,
    a_sign_out_that_nobody_waits_for_reaches_the_node,
    a_broadcast_reaches_the_node,
    the_node_is_listed,
    an_upward_message_is_taken,
    a_node_that_has_its_id_keeps_it,
);

async fn sessions_are_listed_by_client(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("a:b@c.example"));
    assert_eq!(stage.sessions(&user).await, Vec::<String>::new());
    for client in ["b", "a-1", "c"] {
        stage.connect(&user, client).await;
    }
    assert_eq!(stage.sessions(&user).await, ["a-1@node-1", "b@node-1", "c@node-1"]);
    stage.disconnect(&user, "b", None).await;
    assert_eq!(stage.sessions(&user).await, ["a-1@node-1", "c@node-1"]);
}

async fn online_keeps_the_order_asked_for(kind: Kind) {
    let stage = kind.stage().await;
    for id in ["1", "3", "5"] {
        stage.connect(&user(id), "tab").await;
    }
    stage.disconnect(&user("3"), "tab", None).await;
    stage.publish_plain(&user("4"), "1").await; // a log makes nobody online
    let asked = ["5", "4", "3", "2", "1"].map(user).to_vec();
    assert_eq!(stage.engine.online(asked).await.unwrap(), ["5", "1"].map(user));
    assert_eq!(stage.engine.online(Vec::new()).await.unwrap(), []);
}

async fn a_disconnect_may_be_repeated(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    stage.disconnect(&user, "tab", None).await;
    stage.connect(&user, "tab").await;
    stage.connect(&user, "other").await;
    stage.disconnect(&user, "tab", None).await;
    stage.disconnect(&user, "tab", None).await;
    assert_eq!(stage.sessions(&user).await, ["other@node-1"]);
}

async fn no_end_is_refused_however_many_come_at_once(kind: Kind) {
    let (stage, last) = (kind.stage().await, user("last"));
    stage.connect(&last, "tab").await;
    // Nothing is awaited in between: all of them wait for Redis when the last one comes.
    let ends: Vec<_> = (0..20_000)
        .map(|number| user(&number.to_string()))
        .chain([last.clone()])
        .map(|user| Disconnect { user, client: client("tab"), confirmed: None })
        .map(|end| stage.engine.disconnect(end))
        .collect();
    for end in ends {
        end.await.unwrap();
    }
    assert_eq!(stage.sessions(&last).await, Vec::<String>::new());
}

fn renewed(newest: EventId) -> LeaseState {
    LeaseState::Renewed { newest, lost: EventId::ZERO }
}

async fn a_heartbeat_tells_the_newest_event(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    assert_eq!(stage.heartbeat(&user, &[]).await, LeaseState::Lost);
    stage.publish_plain(&user, "0").await;
    let before = stage.publish_plain(&user, "1").await;
    assert_eq!(stage.heartbeat(&user, &[]).await, LeaseState::Lost, "a log is no lease");
    stage.connect(&user, "tab").await;
    assert_eq!(stage.heartbeat(&user, &[]).await, renewed(before));
    let newest = stage.publish_plain(&user, "2").await;
    assert_eq!(stage.heartbeat(&user, &[]).await, renewed(newest));
    stage.disconnect(&user, "tab", None).await;
    assert_eq!(stage.heartbeat(&user, &[]).await, LeaseState::Lost);
}

async fn a_heartbeat_answers_each_user_in_its_place(kind: Kind) {
    let stage = kind.stage().await;
    let mut leases = Vec::new();
    let mut expected = Vec::new();
    for n in 0..MAX_BEATS {
        let user = user(&n.to_string());
        if n % 3 == 0 {
            expected.push(LeaseState::Lost);
        } else {
            stage.connect(&user, "tab").await;
            let id = if n % 3 == 1 { EventId::ZERO } else { stage.publish_plain(&user, "1").await };
            expected.push(renewed(id));
        }
        // Pairs of different number, so that one user's end is found before the next begins.
        let confirmed = (0..n % 4).map(|c| (client(&c.to_string()), EventId { ms: 1, seq: 0 })).collect();
        leases.push(UserLease { user, confirmed });
    }
    assert_eq!(stage.engine.heartbeat(leases).await.unwrap(), expected);
    assert_eq!(stage.engine.heartbeat(Vec::new()).await.unwrap(), []);
}

async fn a_sign_out_reaches_the_node(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    for one in [None, Some("tab")] {
        stage.engine.sign_out(user.clone(), one.map(client)).await.unwrap();
        let told = Told::SignOut { user: "42".to_owned(), client: one.map(str::to_owned) };
        stage.node.wait_for("the sign-out", |it| (*it == told).then_some(())).await;
    }
}

async fn a_sign_out_that_nobody_waits_for_reaches_the_node(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    drop(stage.engine.sign_out(user, None)); // a caller who hangs up
    let told = Told::SignOut { user: "42".to_owned(), client: None };
    stage.node.wait_for("the sign-out", |it| (*it == told).then_some(())).await;
}

async fn a_broadcast_reaches_the_node(kind: Kind) {
    let stage = kind.stage().await;
    let data = Data::from_json_text("{ \"all\":1}".to_owned());
    let nodes = stage.engine.broadcast("notice".parse().unwrap(), data).await.unwrap();
    assert_eq!(nodes, std::slice::from_ref(&stage.id));
    let told = Told::Broadcast { event: "notice".to_owned(), data: "{ \"all\":1}".to_owned() };
    stage.node.wait_for("the broadcast", |it| (*it == told).then_some(())).await;
}

async fn the_node_is_listed(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    stage.connect(&user, "a").await;
    stage.connect(&user, "b").await;
    assert!(stage.engine.beat(2, 0).await.unwrap());
    let nodes = stage.engine.nodes().await.unwrap();
    assert_eq!(nodes.len(), 1);
    let node = &nodes[0];
    assert_eq!((node.node_id.as_str(), node.sessions), ("node-1", 2));
    assert_eq!((node.client_url.as_str(), node.worker_url.as_str()), ("ws://clients", "ws://workers"));
    assert!(node.started > 1_700_000_000_000 && !node.version.is_empty());
}

/// Uptime is told by it: a Redis that was away, or came back empty, is no restart of the node.
#[tokio::test]
async fn a_lease_that_was_lost_does_not_change_when_the_node_started() {
    let stage = Kind::Redis.stage().await;
    let started = async |stage: &Stage| stage.engine.nodes().await.unwrap()[0].started;
    let first = started(&stage).await;
    for lost in [&["DEL", "node:node-1"][..], &["FLUSHALL"]] {
        stage.time_passes(Duration::from_millis(20)).await;
        let _: redis::Value = stage.ask(lost);
        assert!(!stage.engine.beat(0, 0).await.unwrap());
        assert_eq!(stage.engine.claim().await.unwrap(), Claim::Held);
        assert_eq!(started(&stage).await, first, "after {lost:?}");
    }
    stage.engine.release().await.unwrap();
    let next = stage.another("node-1").await;
    assert!(started(&next).await > first, "another process has started later");
}

async fn an_upward_message_is_taken(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let message = Uplink {
        user: user.clone(),
        client: client("tab"),
        event: "cancel".parse().unwrap(),
        data: event(&user, "{\"job\": 7}").data,
    };
    stage.engine.uplink(message).await.unwrap();
    if kind == Kind::Redis {
        let entries: Vec<(String, Vec<String>)> = stage.ask(&["XRANGE", "uplink", "-", "+"]);
        let fields = ["user", "42", "client", "tab", "event", "cancel", "data", "{\"job\": 7}"];
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].1, fields);
    }
}

async fn a_node_that_has_its_id_keeps_it(kind: Kind) {
    let stage = kind.stage().await;
    assert!(stage.engine.is_up());
    for sessions in 0..2 {
        assert!(stage.engine.beat(sessions, 0).await.unwrap());
    }
    crate::recorder::Recorder::eventually("a sign of life", async || stage.engine.sign_of_life().is_some())
        .await;
    stage.engine.clear_up().await.unwrap();
    stage.engine.stop_ingress().await;
    stage.engine.release().await.unwrap();
}

/// A user with a session whose end Redis does not take, and what that has confirmed.
async fn cut_off() -> (Stage, UserId, EventId) {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    // Ends fail: with the last session of a node, that is taken off the user's.
    stage.another("node-2").await.connect(&user, "phone").await;
    stage.connect(&user, "tab").await;
    stage.publish_plain(&user, "1").await;
    let confirmed = stage.publish_plain(&user, "2").await;
    let () = stage.ask(&["ACL", "SETUSER", "default", "-hdel"]);
    (stage, user, confirmed)
}

#[tokio::test]
async fn what_was_confirmed_outlives_whoever_comes_back_in_vain() {
    let (stage, user, confirmed) = cut_off().await;
    let end = |confirmed| Disconnect { user: user.clone(), client: client("tab"), confirmed };
    let begin =
        Connect { user: user.clone(), client: client("tab"), mode: Mode::New, since: None, confirmed: None };
    let () = stage.ask(&["ACL", "SETUSER", "default", "-xrevrange"]);
    stage.engine.disconnect(end(Some(confirmed))).await.unwrap_err();
    // Who is not let in has confirmed nothing; the next one's end does not even come.
    stage.engine.connect(begin.clone()).await.unwrap_err();
    stage.engine.disconnect(end(None)).await.unwrap_err();
    stage.engine.connect(begin).await.unwrap_err();
    let () = stage.ask(&["ACL", "SETUSER", "default", "+xrevrange", "+hdel"]);
    assert_eq!(stage.connect(&user, "tab").await.from, confirmed);
}

#[tokio::test]
async fn who_is_back_before_its_end_got_through_has_what_it_confirmed() {
    let (stage, user, confirmed) = cut_off().await;
    let end = Disconnect { user: user.clone(), client: client("tab"), confirmed: Some(confirmed) };
    stage.engine.disconnect(end).await.unwrap_err();
    assert_eq!(stage.connect(&user, "tab").await.from, confirmed);
    // That end is owed no more.
    let () = stage.ask(&["ACL", "SETUSER", "default", "+hdel"]);
    stage.connect(&user, "another").await;
    assert_eq!(stage.sessions(&user).await, ["another@node-1", "phone@node-2", "tab@node-1"]);
}
