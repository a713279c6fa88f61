//! What a node left half done: hints that failed after their event was in the log, sessions that nobody took off.

use std::collections::BTreeSet;
use std::time::Duration;

use switchboard::engine::{Claim, Connect, Disconnect, Mode};

use crate::recorder::{Recorder, Told};
use crate::stage::{Kind, Options, client, event, user};

#[tokio::test]
async fn a_hint_that_failed_is_a_look_with_the_next_beat() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let b = a.another("node-2").await;
    b.connect(&user, "tab").await;
    // Nothing can be added to what is no stream.
    let inbox = "inbox:{node:node-2}";
    let () = a.ask(&["SET", inbox, "x"]);
    a.engine.publish(event(&user, "1")).await.unwrap_err();
    assert_eq!(a.ask::<i64>(&["XLEN", "log:{user:42}"]), 1, "it is in the log all the same");
    // Still not: then it is tried again. The lease does not hang on it.
    assert!(a.engine.beat(0, 0).await.unwrap());
    let () = a.ask(&["DEL", inbox]);
    let () = a.ask(&["XGROUP", "CREATE", inbox, "node", "0", "MKSTREAM"]);
    assert!(!b.node.told().contains(&Told::Look("42".to_owned(), None)));
    assert!(a.engine.beat(0, 0).await.unwrap());
    b.node.wait_for("the look", |told| (*told == Told::Look("42".to_owned(), None)).then_some(())).await;
    // Once: what was sent is owed no more.
    b.node.take();
    assert!(a.engine.beat(0, 0).await.unwrap());
    let next = a.publish_plain(&user, "2").await;
    b.node.hint_of(next).await;
    assert!(!b.node.told().contains(&Told::Look("42".to_owned(), None)));
}

#[tokio::test]
async fn a_node_that_can_be_told_is_told_once_whoever_else_cannot() {
    let a = Kind::Redis.stage().await;
    let (b, c) = (a.another("node-2").await, a.another("node-3").await);
    b.connect(&user("1"), "tab").await;
    c.connect(&user("2"), "tab").await;
    let inboxes = ["inbox:{node:node-2}", "inbox:{node:node-3}"];
    for inbox in inboxes {
        let () = a.ask(&["SET", inbox, "x"]);
    }
    for id in ["1", "2"] {
        a.engine.publish(event(&user(id), "1")).await.unwrap_err();
    }
    let () = a.ask(&["DEL", inboxes[1]]);
    let () = a.ask(&["XGROUP", "CREATE", inboxes[1], "node", "0", "MKSTREAM"]);
    for _ in 0..3 {
        assert!(a.engine.beat(0, 0).await.unwrap());
    }
    // After all that the beats have told.
    a.engine.broadcast("notice".parse().unwrap(), event(&user("2"), "2").data).await.unwrap();
    c.node.wait_for("the notice", |told| matches!(told, Told::Broadcast { .. }).then_some(())).await;
    let look = Told::Look("2".to_owned(), None);
    assert_eq!(c.node.told().iter().filter(|told| **told == look).count(), 1);
}

#[tokio::test]
async fn each_node_that_could_not_be_told_of_an_event_is_told_to_look() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let (b, c) = (a.another("node-2").await, a.another("node-3").await);
    let nodes = [(&b, "inbox:{node:node-2}"), (&c, "inbox:{node:node-3}")];
    for (stage, inbox) in nodes {
        stage.connect(&user, stage.id.as_str()).await;
        let () = a.ask(&["SET", inbox, "x"]);
    }
    a.engine.publish(event(&user, "1")).await.unwrap_err();
    for (_, inbox) in nodes {
        let () = a.ask(&["DEL", inbox]);
        let () = a.ask(&["XGROUP", "CREATE", inbox, "node", "0", "MKSTREAM"]);
    }
    assert!(a.engine.beat(0, 0).await.unwrap());
    for (stage, _) in nodes {
        let look = Told::Look("42".to_owned(), None);
        stage.node.wait_for("the look", |told| (*told == look).then_some(())).await;
    }
}

#[tokio::test]
async fn who_gives_its_id_back_leaves_no_session_behind() {
    let (stage, gone, elsewhere) = (Kind::Redis.stage().await, user("1"), user("2"));
    let other = stage.another("node-2").await;
    // Redis has not heard of their ends: a drain that was cut short, or Redis was away during it.
    stage.connect(&gone, "tab").await;
    stage.connect(&elsewhere, "tab").await;
    other.connect(&elsewhere, "other").await;
    stage.engine.release().await.unwrap();
    assert_eq!(other.sessions(&gone).await, Vec::<String>::new());
    assert_eq!(other.sessions(&elsewhere).await, ["other@node-2"]);
    assert_eq!(other.publish(event(&gone, "1")).await.nodes, []);
    let told: Vec<(String, Vec<String>)> = stage.ask(&["XREVRANGE", "presence", "+", "-", "COUNT", "1"]);
    assert_eq!(told[0].1, ["user", "1", "state", "offline", "node", "node-1"]);
}

#[tokio::test]
async fn a_death_is_told_once_to_each_node_that_looks() {
    // The others start before it is over.
    let options = Options { node_ttl: Duration::from_secs(4), ..Options::default() };
    let dead = Kind::Redis.stage_with(options).await;
    let long = Options::default();
    let survivors = [dead.another_with("node-2", long).await, dead.another_with("node-3", long).await];
    let mut told = [0, 0];
    let mut round = async || {
        for (survivor, told) in survivors.iter().zip(&mut told) {
            assert!(survivor.engine.beat(0, 0).await.unwrap());
            *told += usize::from(survivor.engine.clear_up().await.unwrap());
        }
        survivors[0].engine.nodes().await.unwrap().len()
    };
    assert_eq!(round().await, 3);
    Recorder::eventually("the dead node cleared up", async || round().await == 2).await;
    round().await;
    // Only one of them has cleared up.
    assert_eq!(told, [1, 1]);
}

#[tokio::test]
async fn a_broadcast_that_one_node_cannot_get_is_not_sent_to_the_others_again() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let b = a.another("node-2").await;
    let () = a.ask(&["SET", "inbox:{node:node-2}", "x"]);
    let send = || a.engine.broadcast("notice".parse().unwrap(), event(&user, "1").data);
    assert_eq!(send().await.unwrap(), ["node-1".parse().unwrap()]);
    // Its own inbox is no matter to a node.
    let () = a.ask(&["SET", "inbox:{node:node-1}", "x"]);
    assert_eq!(send().await.unwrap(), ["node-1".parse().unwrap()]);
    let told = Told::Broadcast { event: "notice".to_owned(), data: "1".to_owned() };
    let times = || a.node.told().iter().filter(|it| **it == told).count();
    assert_eq!(times(), 2);
    // Where Redis takes no writes from anyone, nobody is told.
    let () = a.ask(&["DEL", "inbox:{node:node-2}"]);
    let () = a.ask(&["XGROUP", "CREATE", "inbox:{node:node-2}", "node", "0", "MKSTREAM"]);
    let () = a.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    send().await.unwrap_err();
    assert_eq!(times(), 2);
    drop(b);
}

#[tokio::test]
async fn a_broadcast_reaches_those_who_are_here_though_the_list_of_nodes_is_gone() {
    let stage = Kind::Redis.stage().await;
    let _: i64 = stage.ask(&["DEL", "nodes"]);
    let told = stage.engine.broadcast("notice".parse().unwrap(), event(&user("42"), "1").data).await.unwrap();
    assert_eq!(told, ["node-1".parse().unwrap()]);
    let heard = Told::Broadcast { event: "notice".to_owned(), data: "1".to_owned() };
    assert_eq!(stage.node.told().iter().filter(|it| **it == heard).count(), 1);
}

#[tokio::test]
async fn who_takes_an_id_over_clears_up_until_that_is_done() {
    let (before, user) = (Kind::Redis.stage().await, user("42"));
    before.connect(&user, "tab").await;
    let () = before.ask(&["DEL", "node:node-1"]);
    // Clearing up fails: nobody may be taken off.
    let () = before.ask(&["ACL", "SETUSER", "default", "-srem"]);
    let next = before.another_process("node-1");
    next.engine.claim().await.unwrap_err();
    assert_eq!(before.sessions(&user).await, ["tab@node-1"]);
    let () = before.ask(&["ACL", "SETUSER", "default", "+srem"]);
    let held = async || matches!(next.engine.claim().await, Ok(Claim::Held));
    Recorder::eventually("a claim that holds", held).await;
    assert_eq!(next.sessions(&user).await, Vec::<String>::new());
    assert_eq!(before.edges(), ["online", "offline"]);
    // Once it is done, the sessions are its own.
    next.connect(&user, "tab").await;
    assert_eq!(next.engine.claim().await.unwrap(), Claim::Held);
    assert_eq!(next.sessions(&user).await, ["tab@node-1"]);
}

#[tokio::test]
async fn whom_a_node_serves_lapses_without_a_single_beat() {
    let stage = Kind::Redis.stage().await;
    stage.connect(&user("42"), "tab").await;
    let left: i64 = stage.ask(&["PTTL", "users:{node:node-1}"]);
    let most = i64::try_from((Options::default().log_ttl + Options::default().node_ttl).as_millis()).unwrap();
    assert!(left > most / 2 && left <= most, "{left} ms");
}

#[tokio::test]
async fn an_end_that_comes_late_lets_go_of_no_user_who_is_back() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let served = || stage.ask::<Vec<String>>(&["SMEMBERS", "users:{node:node-1}"]);
    stage.connect(&user, "tab").await;
    stage.connect(&user, "other").await;
    // It was the last one when it ended; the other has come since.
    stage.disconnect(&user, "tab", None).await;
    assert_eq!(served(), ["42"]);
    stage.disconnect(&user, "other", None).await;
    assert_eq!(served(), Vec::<String>::new());
}

#[tokio::test]
async fn whose_place_was_taken_by_one_that_could_not_begin_is_told_to_look() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let b = a.another("node-2").await;
    a.connect(&user, "tab").await;
    let inbox = "inbox:{node:node-1}";
    let () = a.ask(&["SET", inbox, "x"]);
    let newer =
        Connect { user: user.clone(), client: client("tab"), mode: Mode::New, since: None, confirmed: None };
    b.engine.connect(newer).await.unwrap_err();
    b.disconnect(&user, "tab", None).await;
    let () = a.ask(&["DEL", inbox]);
    let () = a.ask(&["XGROUP", "CREATE", inbox, "node", "0", "MKSTREAM"]);
    assert!(b.engine.beat(0, 0).await.unwrap());
    a.node.wait_for("the look", |told| (*told == Told::Look("42".to_owned(), None)).then_some(())).await;
}

/// What Redis refuses of an end, and how that is put right; whether it is done all the same, and only to be told.
const REFUSED: [([&[&str]; 2], bool); 2] = [
    (
        [&["CONFIG", "SET", "min-replicas-to-write", "1"], &["CONFIG", "SET", "min-replicas-to-write", "0"]],
        false,
    ),
    ([&["SET", "presence", "x"], &["DEL", "presence"]], true),
];

#[tokio::test]
async fn an_end_that_redis_refused_is_tried_again_by_itself() {
    for ([breaks, mends], done) in REFUSED {
        let (stage, user) = (Kind::Redis.stage().await, user("42"));
        stage.connect(&user, "tab").await;
        let () = stage.ask(&["DEL", "presence"]);
        let () = stage.ask(breaks);
        let end = Disconnect { user, client: client("tab"), confirmed: None };
        assert_eq!(stage.engine.disconnect(end).await.is_ok(), done, "{breaks:?}");
        let () = stage.ask(mends);
        let served = || stage.ask::<i64>(&["EXISTS", "user:42", "users:{node:node-1}"]);
        Recorder::eventually("the end", async || served() == 0).await;
        assert_eq!(stage.edges(), ["offline"], "{breaks:?}");
    }
}

#[tokio::test]
async fn whose_end_was_one_too_many_to_keep_is_looked_for_once_redis_takes_ends_again() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.connect(&user, "phone").await;
    stage.connect(&user, "tab").await;
    // Of these nothing is left there but that they were online; one will register anew.
    for user in ["gone", "here"] {
        stage.connect(&self::user(user), "tab").await;
        let () = stage.ask(&["DEL", &format!("user:{user}"), &format!("nodes:{{user:{user}}}")]);
    }
    stage.node.here.lock().unwrap().push("here".to_owned());
    let () = stage.ask(&["ACL", "SETUSER", "default", "-srem"]);
    // More than are kept; that of the tab comes last.
    let others = (0..16_384).map(|number| self::user(&format!("other-{number}")));
    let end = |user| Disconnect { user, client: client("tab"), confirmed: None };
    let ends: Vec<_> = others.chain([user]).map(|user| stage.engine.disconnect(end(user))).collect();
    for end in ends {
        end.await.unwrap_err();
    }
    stage.node.take();
    let () = stage.ask(&["ACL", "SETUSER", "default", "+srem"]);
    let listed = |told: &Told| match told {
        Told::Listed { user, clients } if user == "42" => Some(clients.clone()),
        _ => None,
    };
    let mut listed = stage.node.wait_for("whom Redis has here", listed).await;
    listed.sort();
    assert_eq!(listed, ["phone", "tab"]);
    let served = || stage.ask::<BTreeSet<String>>(&["SMEMBERS", "users:{node:node-1}"]);
    let others = ["42", "here"].map(str::to_owned).into();
    Recorder::eventually("that nobody serves who is gone", async || served() == others).await;
    assert_eq!(stage.edges_of("gone"), ["online", "offline"]);
    assert_eq!(stage.edges_of("here"), ["online"]);
}

#[tokio::test]
async fn an_end_that_could_not_be_told_takes_nobody_off_who_is_back() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    let () = stage.ask(&["SET", "presence", "x"]);
    stage.disconnect(&user, "tab", None).await;
    stage.connect(&user, "tab").await;
    let () = stage.ask(&["DEL", "presence"]);
    // Whoever leaves next takes along what is still to be ended.
    stage.disconnect(&self::user("another"), "tab", None).await;
    assert_eq!(stage.sessions(&user).await, ["tab@node-1"]);
    assert_eq!(stage.ask::<Vec<String>>(&["SMEMBERS", "users:{node:node-1}"]), ["42"]);
    // Both edges are owed still, and told in their order.
    stage.heartbeat(&user, &[]).await;
    assert_eq!(stage.edges(), ["offline", "online"]);
}

#[tokio::test]
async fn renewing_leases_opens_no_connections() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    let opened = || {
        let told: String = stage.ask(&["INFO", "stats"]);
        let count = told.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.unwrap().parse::<usize>().unwrap()
    };
    let before = opened();
    for _ in 0..50 {
        stage.heartbeat(&user, &[]).await;
    }
    // A few: the pool may not have been full.
    assert!(opened() - before < 10, "{} for 50", opened() - before);
}

/// Sessions that register anew are on the list by and by, and need not be told to.
#[tokio::test]
async fn users_who_stay_off_a_nodes_list_are_registered_anew_and_those_who_come_back_are_left_alone() {
    let stage = Kind::Redis.stage().await;
    let list = "users:{node:node-1}";
    let are_doubted = async |listed: &[&str]| {
        let _: i64 = stage.ask(&["DEL", list]);
        if !listed.is_empty() {
            let _: i64 = stage.ask(&[&["SADD", list], listed].concat());
        }
        assert!(stage.engine.beat(4, 4).await.unwrap());
        stage.node.take().contains(&Told::Doubted)
    };
    for listed in
        [&[][..], &["1"], &["1", "2"], &["1", "2", "3"], &["1", "2", "3", "4"], &["1", "2", "3", "4", "5"]]
    {
        assert!(!are_doubted(listed).await, "with {listed:?}");
    }
    assert!(!are_doubted(&["1", "2"]).await, "some may have left since they were counted");
    assert!(are_doubted(&["3", "4"]).await);
}
