//! What only several nodes on one Redis can show: inboxes, claims, presence, clearing up, what is left behind.

use std::collections::BTreeSet;
use std::time::Duration;

use switchboard::engine::{Claim, Disconnect, Event, LeaseState, UserLease};

use crate::recorder::{Recorder, Told};
use crate::stage::{Kind, Options, Stage, client, event, ids, user};

fn presence(stage: &Stage) -> Vec<String> {
    let entries: Vec<(String, Vec<String>)> = stage.ask(&["XRANGE", "presence", "-", "+"]);
    entries.into_iter().map(|(_, fields)| fields.join(" ")).collect()
}

#[tokio::test]
async fn an_event_reaches_every_node_that_holds_its_user() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let (b, c) = (a.another("node-2").await, a.another("node-3").await);
    a.connect(&user, "on-a").await;
    b.connect(&user, "on-b").await;
    let targeted = Event { except: Some(client("on-a")), ..event(&user, "{\"x\": 1}") };
    let published = c.publish(targeted).await;
    let nodes: BTreeSet<_> = published.nodes.iter().map(ToString::to_string).collect();
    assert_eq!(nodes, BTreeSet::from(["node-1".to_owned(), "node-2".to_owned()]));
    let id = published.id.unwrap();
    let on_a = a.node.hint_of(id).await;
    assert_eq!((on_a.data.as_str(), on_a.except.as_deref()), ("{\"x\": 1}", Some("on-a")));
    assert_eq!(b.node.hint_of(id).await, on_a, "the same by inbox from wherever");

    let transient = Event { transient: true, ..event(&user, "2") };
    b.publish(transient).await;
    let is_it = |told: &Told| matches!(told, Told::Hint(it) if it.logged.is_none()).then_some(());
    a.node.wait_for("the transient event", is_it).await;
    b.node.wait_for("the transient event", is_it).await;
    assert_eq!(c.node.hints(), [], "who holds nobody is told nothing");
}

#[tokio::test]
async fn one_call_appends_an_event_and_tells_the_other_nodes() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let b = a.another("node-2").await;
    a.connect(&user, "on-a").await;
    b.connect(&user, "on-b").await;
    let published = a.publish(event(&user, "1")).await;
    // Each connection's last command, not what scripts call.
    let clients: String = a.ask(&["CLIENT", "LIST"]);
    assert!(clients.contains(" cmd=evalsha ") && !clients.contains(" cmd=xadd "), "{clients}");
    let id = published.id.unwrap();
    assert_eq!(b.node.hint_of(id).await, a.node.hint_of(id).await);
    assert_eq!((a.node.hints().len(), b.node.hints().len()), (1, 1));
}

#[tokio::test]
async fn a_sign_out_is_told_once_to_each_node() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let b = a.another("node-2").await;
    for (stage, id) in [(&a, "1"), (&b, "2"), (&a, "3"), (&b, "4")] {
        stage.connect(&user, id).await;
    }
    a.engine.sign_out(user.clone(), None).await.unwrap();
    // It comes behind whatever was told of that.
    a.engine.broadcast("notice".parse().unwrap(), event(&user, "1").data).await.unwrap();
    let signed_out = |told: &Told| matches!(told, Told::SignOut { .. });
    for stage in [&a, &b] {
        let is_notice = |told: &Told| matches!(told, Told::Broadcast { .. }).then_some(());
        stage.node.wait_for("the notice", is_notice).await;
        assert_eq!(stage.node.told().into_iter().filter(signed_out).count(), 1);
    }
}

#[tokio::test]
async fn a_node_that_cannot_be_told_does_not_have_the_others_told_twice() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let (b, c) = (a.another("node-2").await, a.another("node-3").await);
    b.connect(&user, "on-b").await;
    c.connect(&user, "on-c").await;
    let inbox = "inbox:{node:node-3}";
    let () = a.ask(&["SET", inbox, "no stream"]);
    let transient = |data| Event { transient: true, ..event(&user, data) };
    a.engine.publish(transient("1")).await.unwrap_err();
    let () = a.ask(&["DEL", inbox]);
    a.publish(transient("2")).await;
    let second = |told: &Told| matches!(told, Told::Hint(it) if it.data == "2").then_some(());
    b.node.wait_for("the second event", second).await;
    assert_eq!(b.node.hints().iter().map(|it| &*it.data).collect::<Vec<_>>(), ["1", "2"]);
}

#[tokio::test]
async fn hints_of_one_user_come_in_the_order_of_the_log() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let b = a.another("node-2").await;
    b.connect(&user, "tab").await;
    let answers: Vec<_> = (0..300).map(|n| a.engine.publish(event(&user, &n.to_string()))).collect();
    let mut published = Vec::new();
    for answer in answers {
        published.push(answer.await.unwrap().id.unwrap());
    }
    b.node.hint_of(published[299]).await;
    assert_eq!(b.node.hints().iter().map(|it| it.id().unwrap()).collect::<Vec<_>>(), published);
}

#[tokio::test]
async fn a_key_published_before_is_a_look_for_the_nodes() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let b = a.another("node-2").await;
    b.connect(&user, "tab").await;
    let keyed = Event { key: Some("k".parse().unwrap()), ..event(&user, "1") };
    let first = a.publish(keyed.clone()).await;
    // The first time might have ended between the log and the inbox.
    assert_eq!(a.publish(keyed).await, first);
    let look = Told::Look("42".to_owned(), first.id);
    b.node.wait_for("the look", |told| (*told == look).then_some(())).await;
}

#[tokio::test]
async fn broadcasts_and_sign_outs_reach_other_nodes() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let b = a.another("node-2").await;
    b.connect(&user, "tab").await;
    let nodes = a.engine.broadcast("notice".parse().unwrap(), event(&user, "1").data).await.unwrap();
    assert_eq!(nodes.len(), 2);
    // Here it has been told already: what is published next must not overtake it.
    assert!(matches!(a.node.told()[..], [Told::Broadcast { .. }]), "{:?}", a.node.told());
    for stage in [&a, &b] {
        let told = Told::Broadcast { event: "notice".to_owned(), data: "1".to_owned() };
        stage.node.wait_for("the broadcast", |it| (*it == told).then_some(())).await;
    }
    a.engine.sign_out(user, None).await.unwrap();
    let told = Told::SignOut { user: "42".to_owned(), client: None };
    b.node.wait_for("the sign-out", |it| (*it == told).then_some(())).await;
    assert!(!a.node.told().contains(&told));
}

#[tokio::test]
async fn an_id_is_held_by_one_process() {
    let (first, user) = (Kind::Redis.stage().await, user("42"));
    first.connect(&user, "tab").await;
    let second = first.another_process("node-1");
    match second.engine.claim().await.unwrap() {
        Claim::Taken(left) => assert!(left > Duration::from_secs(500), "{left:?}"),
        other => panic!("{other:?}"),
    }
    assert!(!second.engine.beat(0, 0).await.unwrap());
    second.engine.release().await.unwrap();
    assert!(first.engine.beat(0, 0).await.unwrap(), "what another does not hold it cannot give back");
    assert_eq!(first.sessions(&user).await, ["tab@node-1"], "nor take from it");
    first.engine.release().await.unwrap();
    assert_eq!(second.engine.claim().await.unwrap(), Claim::Held);
    assert!(!first.engine.beat(0, 0).await.unwrap());
    assert!(!first.engine.is_up(), "who lost its id does nothing in its name");
}

#[tokio::test]
async fn an_id_that_is_being_cleared_up_after_is_free_in_a_moment() {
    let stage = Kind::Redis.stage().await;
    // As a survivor claims it, without a version; then another process.
    for (version, clears_up) in [("", true), ("1", false)] {
        let _: i64 = stage.ask(&["HSET", "node:node-1", "boot", "another", "version", version]);
        let claim = stage.engine.claim().await.unwrap();
        assert_eq!(claim == Claim::ClearingUp, clears_up, "{claim:?}");
        assert_eq!(matches!(claim, Claim::Taken(_)), !clears_up, "{claim:?}");
    }
}

#[tokio::test]
async fn what_waits_for_an_earlier_process_is_not_told_to_the_next() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let inbox = "inbox:{node:node-2}";
    let () = a.ask(&["XGROUP", "CREATE", inbox, "node", "0", "MKSTREAM"]);
    let _: String = a.ask(&["XADD", inbox, "*", "hints", "0 signout 42\n\n"]);
    let b = a.another("node-2").await;
    a.engine.broadcast("notice".parse().unwrap(), event(&user, "1").data).await.unwrap();
    let told = Told::Broadcast { event: "notice".to_owned(), data: "1".to_owned() };
    b.node.wait_for("the broadcast", |it| (*it == told).then_some(())).await;
    assert_eq!(b.node.told(), [told]);
}

#[tokio::test]
async fn who_was_frozen_takes_nothing_from_whoever_has_its_id_now() {
    let options = Options { node_ttl: Duration::from_secs(2), ..Options::default() };
    let (old, user) = (Kind::Redis.stage_with(options).await, user("42"));
    old.connect(&user, "tab").await;
    // Its lease lapses: it renews nothing.
    let new = old.another_process_with("node-1", Options::default());
    let held = async || new.engine.claim().await.unwrap() == Claim::Held;
    Recorder::eventually("the id being free", held).await;
    new.connect(&user, "tab").await;
    let end = Disconnect { user: user.clone(), client: client("tab"), confirmed: None };
    let lease = vec![UserLease { user: user.clone(), confirmed: Vec::new() }];
    // Before it has asked whether it still has its id, and after.
    old.engine.disconnect(end.clone()).await.unwrap_err();
    old.engine.heartbeat(lease.clone()).await.unwrap_err();
    assert!(matches!(old.engine.claim().await.unwrap(), Claim::Taken(_)));
    old.engine.disconnect(end).await.unwrap_err();
    old.engine.heartbeat(lease).await.unwrap_err();
    assert_eq!(new.ask::<Vec<String>>(&["SMEMBERS", "user:42"]), ["tab@node-1"]);
}

#[tokio::test]
async fn a_process_clears_up_after_the_one_before_it() {
    let (first, user) = (Kind::Redis.stage().await, user("42"));
    first.connect(&user, "tab").await;
    // As after kill -9, with its lease lapsed.
    let _: i64 = first.ask(&["DEL", "node:node-1"]);
    let second = first.another("node-1").await;
    assert_eq!(second.sessions(&user).await, Vec::<String>::new());
    assert_eq!(presence(&second), ["user 42 state online node node-1", "user 42 state offline node node-1"]);
    assert_eq!(second.ask::<i64>(&["EXISTS", "users:{node:node-1}", "nodes:{user:42}"]), 0);
}

#[tokio::test]
async fn a_survivor_clears_up_after_a_dead_node() {
    // The others start before it is over.
    let node_ttl = Duration::from_secs(4);
    let options = Options { node_ttl, ..Options::default() };
    let dead = Kind::Redis.stage_with(options).await;
    let survivor = dead.another_with("node-2", Options::default()).await;
    let (gone, elsewhere) = (user("1"), user("2"));
    dead.connect(&gone, "tab").await;
    dead.connect(&elsewhere, "tab").await;
    survivor.connect(&elsewhere, "other").await;
    let missed = dead.publish_plain(&gone, "1").await;

    Recorder::eventually("the dead node cleared up", async || {
        assert!(survivor.engine.beat(1, 0).await.unwrap());
        // It is off the list a moment before its id can be claimed: then it is the next round that clears up.
        survivor.engine.clear_up().await.unwrap();
        survivor.engine.nodes().await.unwrap().len() == 1
            && survivor.engine.online(vec![gone.clone(), elsewhere.clone()]).await.unwrap()
                == std::slice::from_ref(&elsewhere)
    })
    .await;
    assert!(survivor.engine.beat(1, 0).await.unwrap());
    assert_eq!(survivor.sessions(&elsewhere).await, ["other@node-2"]);
    assert_eq!(survivor.publish(event(&elsewhere, "2")).await.nodes, std::slice::from_ref(&survivor.id));
    assert_eq!(presence(&survivor).last().unwrap(), "user 1 state offline node node-1");
    let left: Vec<String> = survivor.ask(&["KEYS", "*node-1*"]);
    assert_eq!(left, Vec::<String>::new());
    // Its sessions come back elsewhere, and are caught up from the log.
    assert_eq!(ids(&survivor.connect(&gone, "tab").await), [missed]);
    // Where it was only frozen, it has to register them anew.
    assert_eq!(dead.engine.claim().await.unwrap(), Claim::Held);
    assert_eq!(dead.heartbeat(&gone, &[]).await, LeaseState::Lost);
}

#[tokio::test]
async fn presence_tells_the_first_session_and_the_last() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let b = a.another("node-2").await;
    a.connect(&user, "x").await;
    b.connect(&user, "y").await;
    a.connect(&user, "y").await;
    b.disconnect(&user, "y", None).await;
    a.disconnect(&user, "x", None).await;
    a.disconnect(&user, "y", None).await;
    assert_eq!(presence(&a), ["user 42 state online node node-1", "user 42 state offline node node-1"]);
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_loaded_again() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let welcome = stage.connect(&user, "tab").await;
    let () = stage.ask(&["SCRIPT", "FLUSH"]);
    let id = stage.publish_plain(&user, "1").await;
    let () = stage.ask(&["SCRIPT", "FLUSH"]);
    assert!(stage.engine.beat(1, 0).await.unwrap());
    assert_eq!(ids(&stage.resume(&user, "tab", welcome.position).await), [id]);
}

#[tokio::test]
async fn no_key_of_a_user_is_without_an_end() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let check = |when: &str| {
        let keys: Vec<String> = stage.ask(&["KEYS", "*42*"]);
        for key in keys {
            assert!(stage.ask::<i64>(&["PTTL", &key]) > 0, "{key} has no TTL {when}");
        }
    };
    stage.publish(Event { key: Some("k".parse().unwrap()), ..event(&user, "0") }).await;
    check("where the user is offline");
    let position = stage.connect(&user, "tab").await.position;
    check("after connect");
    stage.publish(Event { collapse: Some("p".parse().unwrap()), ..event(&user, "1") }).await;
    check("after publish");
    stage.heartbeat(&user, &[("tab", position)]).await;
    check("after a heartbeat");
    stage.disconnect(&user, "tab", Some(position)).await;
    check("after disconnect");
}

#[tokio::test]
async fn both_keys_of_a_session_end_with_the_last_lease() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let b = a.another("node-2").await;
    a.connect(&user, "x").await;
    b.connect(&user, "y").await;
    let time: Vec<u64> = a.ask(&["TIME"]);
    let until = (time[0] + 5000) * 1000; // a node that runs with a longer `--session-ttl`
    let _: i64 = a.ask(&["HSET", "nodes:{user:42}", "node-2", &until.to_string()]);
    let left = |key: &str| a.ask::<i64>(&["PTTL", key]);
    for holders in ["both", "the other is gone"] {
        assert!(matches!(a.heartbeat(&user, &[]).await, LeaseState::Renewed { .. }));
        for key in ["user:42", "nodes:{user:42}"] {
            assert_eq!(left(key) > 4_000_000, holders == "both", "{key}, {holders}: {} ms", left(key));
        }
        let _: i64 = a.ask(&["HDEL", "nodes:{user:42}", "node-2"]);
    }
}

#[tokio::test]
async fn a_lease_that_lapsed_goes_with_its_sessions_when_somebody_comes() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let b = a.another("node-2").await;
    a.connect(&user, "x").await;
    b.connect(&user, "y").await;
    let _: i64 = a.ask(&["HSET", "nodes:{user:42}", "node-1", "1"]);
    b.connect(&user, "z").await;
    assert_eq!(b.sessions(&user).await, ["y@node-2", "z@node-2"]);
    assert_eq!(a.ask::<i64>(&["HEXISTS", "nodes:{user:42}", "node-1"]), 0);
}

#[tokio::test]
async fn a_clean_end_leaves_nothing_but_the_log() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    stage.publish_plain(&user, "1").await;
    stage.disconnect(&user, "tab", None).await;
    stage.engine.stop_ingress().await;
    stage.engine.release().await.unwrap();
    let left: BTreeSet<String> = stage.ask(&["KEYS", "*"]);
    let kept = ["log:{user:42}", "cursor:{user:42}", "presence", "events"].map(str::to_owned);
    assert_eq!(left, BTreeSet::from(kept));
}

#[tokio::test]
async fn who_waits_for_an_id_takes_no_hint_from_whoever_has_it() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let b = a.another("node-2").await;
    b.connect(&user, "tab").await;
    let waiting = a.another_process("node-2");
    assert!(matches!(waiting.engine.claim().await.unwrap(), Claim::Taken(_)));
    waiting.engine.start(waiting.node.clone());
    for number in 0..20 {
        let id = a.publish_plain(&user, &number.to_string()).await;
        b.node.hint_of(id).await;
    }
    assert_eq!(waiting.node.told(), []);
}
