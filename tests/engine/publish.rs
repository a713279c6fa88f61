//! What publishing promises: ids, keys, hints with their chain, and which nodes.

use futures_util::future::join_all;
use switchboard::engine::Event;
use switchboard::id::{EventId, Logged, NodeId};

use crate::recorder::{Hinted, Told};
use crate::stage::{Kind, Options, client, event, ids, user};

crate::on_both_engines!(
    ids_strictly_increase,
    hints_are_chained,
    the_chain_goes_over_collapsed_events,
    a_hint_says_all_of_its_event,
    a_transient_event_is_told_and_not_kept,
    nobody_is_told_where_the_user_is_offline,
    a_key_is_published_once,
    a_key_counts_for_its_user_alone,
    a_key_holds_also_where_its_event_was_collapsed,
    a_key_is_free_again_when_its_event_has_left_the_log,
    keys_of_what_was_replaced_are_bounded_and_the_newest_are_kept,
    a_key_holds_while_its_event_is_in_the_log_whatever_else_is_replaced,
    two_of_one_key_at_once_are_one,
    publishing_at_once_loses_nothing,
    what_is_large_is_not_counted_to_its_end,
);

async fn ids_strictly_increase(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let mut last = EventId::ZERO;
    for round in 0..3 {
        for n in 0..20 {
            let id = stage.publish_plain(&user, &n.to_string()).await;
            assert!(id > last, "{id} after {last}");
            last = id;
        }
        // Whether anybody is there makes no difference.
        match round {
            0 => _ = stage.connect(&user, "tab").await,
            _ => stage.disconnect(&user, "tab", None).await,
        }
    }
}

async fn hints_are_chained(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let before = stage.publish_plain(&user, "0").await;
    stage.connect(&user, "tab").await;
    let mut prev = before;
    for n in 0..5 {
        let only = Event { client: Some(client("other")), ..event(&user, &n.to_string()) };
        let id = stage.publish(only).await.id.unwrap();
        assert_eq!(stage.node.hint_of(id).await.logged, Some(Logged { id, prev }));
        prev = id;
    }
    stage.disconnect(&user, "tab", None).await;
    let unseen = stage.publish_plain(&user, "unseen").await;
    stage.connect(&user, "tab").await;
    let id = stage.publish_plain(&user, "seen").await;
    assert_eq!(stage.node.hint_of(id).await.logged, Some(Logged { id, prev: unseen }));
}

async fn the_chain_goes_over_collapsed_events(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let position = stage.connect(&user, "tab").await.position;
    let mut prev = None;
    for n in 0..4 {
        let progress = Event { collapse: Some("p".parse().unwrap()), ..event(&user, &n.to_string()) };
        let id = stage.publish(progress).await.id.unwrap();
        let hinted = stage.node.hint_of(id).await;
        let before = hinted.logged.unwrap().prev;
        // Whoever is not behind sees them all, and sees that it does.
        assert_eq!(before, prev.unwrap_or(before));
        assert!(prev.is_some() || before <= position);
        prev = Some(id);
    }
}

async fn a_hint_says_all_of_its_event(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("auth0|7"));
    stage.connect(&user, "a").await;
    let targeted = Event {
        client: Some(client("a")),
        except: Some(client("b")),
        event: "x:y".parse().unwrap(),
        ..event(&user, "{\"a\": [ 1 ]}")
    };
    let id = stage.publish(targeted).await.id.unwrap();
    let hinted = stage.node.hint_of(id).await;
    let expected = Hinted {
        user: "auth0|7".to_owned(),
        logged: hinted.logged,
        client: Some("a".to_owned()),
        except: Some("b".to_owned()),
        event: "x:y".to_owned(),
        data: "{\"a\": [ 1 ]}".to_owned(),
    };
    assert_eq!(hinted, expected);
}

async fn a_transient_event_is_told_and_not_kept(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let before = stage.connect(&user, "tab").await.position;
    let transient = Event { transient: true, ..event(&user, "1") };
    let published = stage.publish(transient).await;
    assert_eq!((published.id, published.nodes), (None, vec![stage.id.clone()]));
    let hinted = stage.node.hints().pop().unwrap();
    assert_eq!((hinted.logged, hinted.data.as_str()), (None, "1"));
    let id = stage.publish_plain(&user, "2").await;
    let page = stage.resume(&user, "tab", before).await;
    assert_eq!((ids(&page), page.whole), (vec![id], true));
}

async fn nobody_is_told_where_the_user_is_offline(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let nobody: [NodeId; 0] = [];
    assert_eq!(stage.publish(event(&user, "1")).await.nodes, nobody);
    stage.connect(&user, "a").await;
    stage.connect(&user, "b").await;
    assert_eq!(stage.publish(event(&user, "2")).await.nodes, std::slice::from_ref(&stage.id));
    stage.disconnect(&user, "a", None).await;
    assert_eq!(stage.publish(event(&user, "3")).await.nodes, std::slice::from_ref(&stage.id));
    stage.disconnect(&user, "b", None).await;
    assert_eq!(stage.publish(event(&user, "4")).await.nodes, nobody);
    let transient = Event { transient: true, ..event(&user, "5") };
    assert_eq!(stage.publish(transient).await.nodes, nobody);
    let told: Vec<_> = stage.node.hints().into_iter().map(|hinted| hinted.data).collect();
    assert_eq!(told, ["2", "3"]);
}

async fn a_key_is_published_once(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    let keyed = Event { key: Some("order 7/paid".parse().unwrap()), ..event(&user, "1") };
    let first = stage.publish(keyed.clone()).await;
    stage.publish_plain(&user, "2").await;
    let again = stage.publish(Event { data: event(&user, "other").data, ..keyed }).await;
    assert_eq!(again, first);
    let all = stage.connect_since(&user, "other", EventId::ZERO).await;
    assert_eq!(all.events.iter().map(|event| &event.data[..]).collect::<Vec<_>>(), [b"1", b"2"]);
    // Who was told may be told again, but of nothing new.
    let told: Vec<_> = stage.node.hints().into_iter().map(|hinted| hinted.data).collect();
    assert_eq!(told, ["1", "2"]);
}

async fn a_key_counts_for_its_user_alone(kind: Kind) {
    let stage = kind.stage().await;
    let keyed = |id: &str| Event { key: Some("k".parse().unwrap()), ..event(&user(id), "1") };
    stage.publish(keyed("1")).await;
    let id = stage.publish(keyed("2")).await.id.unwrap();
    assert_eq!(ids(&stage.connect_since(&user("2"), "tab", EventId::ZERO).await), [id]);
}

async fn a_key_holds_also_where_its_event_was_collapsed(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let step = |key: &str, data: &str| Event {
        key: Some(key.parse().unwrap()),
        collapse: Some("p".parse().unwrap()),
        ..event(&user, data)
    };
    let first = stage.publish(step("k1", "10")).await.id;
    let second = stage.publish(step("k2", "20")).await.id.unwrap();
    // A worker that did not hear the first answer asks again: older progress must not take the newer one's place.
    assert_eq!(stage.publish(step("k1", "10")).await.id, first);
    assert_eq!(ids(&stage.connect_since(&user, "tab", EventId::ZERO).await), [second]);
}

async fn a_key_is_free_again_when_its_event_has_left_the_log(kind: Kind) {
    let stage = kind.stage_with(Options { log_length: 4, ..Options::default() }).await;
    let user = user("42");
    let keyed = Event { key: Some("k".parse().unwrap()), ..event(&user, "1") };
    let first = stage.publish(keyed.clone()).await.id;
    for others in [3, 1] {
        assert_eq!(stage.publish(keyed.clone()).await.id, first, "it is in the log");
        for _ in 0..others {
            stage.publish_plain(&user, "other").await;
        }
    }
    let second = stage.publish(keyed.clone()).await.id;
    assert!(second > first, "it has left the log");
    assert_eq!(stage.publish(keyed).await.id, second);
}

async fn keys_of_what_was_replaced_are_bounded_and_the_newest_are_kept(kind: Kind) {
    let stage = kind.stage_with(Options { log_length: 4, ..Options::default() }).await;
    let user = user("42");
    let step = |number: usize| Event {
        key: Some(format!("k{number}").parse().unwrap()),
        collapse: Some("job".parse().unwrap()),
        ..event(&user, "1")
    };
    // It stays the log's oldest, so that no key is older than all of the log.
    stage.publish_plain(&user, "0").await;
    let mut published = Vec::new();
    for number in 0..600 {
        published.push(stage.publish(step(number)).await.id);
    }
    if kind == Kind::Redis {
        let fields: usize = stage.ask(&["HLEN", "cursor:{user:42}"]);
        assert!(fields < 300, "{fields} fields for a log of 4");
    }
    assert_eq!(stage.publish(step(599)).await.id, published[599], "the newest are remembered");
    assert_eq!(stage.publish(step(597)).await.id, published[597]);
    assert!(stage.publish(step(0)).await.id > published[599], "the oldest are not");
}

async fn a_key_holds_while_its_event_is_in_the_log_whatever_else_is_replaced(kind: Kind) {
    let stage = kind.stage_with(Options { log_length: 4, ..Options::default() }).await;
    let user = user("42");
    let keyed = |key: &str| Event { key: Some(key.parse().unwrap()), ..event(&user, "1") };
    let result = stage.publish(keyed("result")).await.id;
    for number in 0..700 {
        let collapse = Some("progress".parse().unwrap());
        stage.publish(Event { collapse, ..keyed(&format!("progress-{number}")) }).await;
    }
    assert_eq!(stage.publish(keyed("result")).await.id, result);
}

async fn two_of_one_key_at_once_are_one(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let keyed = Event { key: Some("k".parse().unwrap()), ..event(&user, "1") };
    let answers = (0..10).map(|_| stage.engine.publish(keyed.clone())).collect::<Vec<_>>();
    let mut answered = Vec::new();
    for answer in answers {
        answered.push(answer.await.unwrap().id.unwrap());
    }
    answered.dedup();
    assert_eq!(ids(&stage.connect_since(&user, "tab", EventId::ZERO).await), answered);
    assert_eq!(answered.len(), 1);
}

async fn what_is_large_is_not_counted_to_its_end(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let large = format!("\"{}\"", "x".repeat(64 * 1024));
    for _ in 0..100 {
        stage.publish_plain(&user, &large).await;
    }
    let first = stage.connect_since(&user, "tab", EventId::ZERO).await;
    let in_page = first.events.len() as u64;
    assert!(first.whole && first.more && first.replayed >= in_page, "{}", first.replayed);
    assert!(first.replayed < 64, "4 MiB and more were read to count {} events", first.replayed);
    // Many who want it at once all get it, and those beside them that want little.
    let other = self::user("7");
    let last = stage.publish_plain(&other, "1").await;
    let tabs: Vec<_> = (0..20).map(|tab| tab.to_string()).collect();
    let large = tabs.iter().map(|tab| stage.connect_since(&user, tab, EventId::ZERO));
    let small = tabs.iter().map(|tab| stage.connect_since(&other, tab, EventId::ZERO));
    let (large, small) = tokio::join!(join_all(large), join_all(small));
    assert!(large.iter().all(|page| ids(page) == ids(&first)));
    assert!(small.iter().all(|page| ids(page) == [last]));
}

async fn publishing_at_once_loses_nothing(kind: Kind) {
    let stage = kind.stage().await;
    let users: Vec<_> = (0..7).map(|n| user(&n.to_string())).collect();
    stage.connect(&users[0], "tab").await;
    // More than one script call takes, for several users in turn, asked for before any answer is awaited.
    let answers: Vec<_> =
        (0..700).map(|n| stage.engine.publish(event(&users[n % users.len()], &n.to_string()))).collect();
    let mut published = vec![Vec::new(); users.len()];
    for (n, answer) in answers.into_iter().enumerate() {
        published[n % users.len()].push(answer.await.unwrap().id.unwrap());
    }
    for (user, published) in users.iter().zip(&published) {
        assert!(published.is_sorted_by(|a, b| a < b), "in the order of the calls");
        let first = stage.connect_since(user, "other", EventId::ZERO).await;
        assert_eq!((first.replayed, first.whole), (100, true));
        let data: Vec<u32> = first
            .events
            .iter()
            .map(|event| std::str::from_utf8(&event.data).unwrap().parse().unwrap())
            .collect();
        assert!(data.is_sorted_by(|a, b| a < b));
    }
    assert!(!stage.node.told().contains(&Told::InboxLost));
}

/// The time is that of the event's own id, where it can be: a lease that is over is noticed only once it is in the log.
#[tokio::test]
async fn an_event_for_whom_all_leases_are_over_is_kept_as_for_one_who_is_away() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    let first = stage.publish_plain(&user, "1").await;
    let () = stage.ask(&["HSET", "nodes:{user:42}", "node-1", "1000000000000"]);
    let published = stage.publish(event(&user, "2")).await;
    assert_eq!(published.nodes, []);
    let id = published.id.unwrap();
    let noted: Option<String> = stage.ask(&["HGET", "cursor:{user:42}", "@newest"]);
    assert_eq!(noted, Some(id.to_string()), "no heartbeat will note it");
    let page = stage.resume(&user, "tab", EventId::ZERO).await;
    assert_eq!((ids(&page), page.whole), (vec![first, id], true));
}

#[tokio::test]
async fn ids_that_are_ahead_of_the_clock_end_no_lease() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    let first = stage.publish_plain(&user, "1").await;
    let ahead = EventId { ms: first.ms + 3_600_000, seq: 0 };
    let fields = ["event", "bench", "data", "2", "prev", &first.to_string()];
    let at = ahead.to_string();
    let _: String = stage.ask(&[&["XADD", "log:{user:42}", at.as_str()], &fields[..]].concat());
    let () = stage.ask(&["HSET", "nodes:{user:42}", "@last", &at]);
    let published = stage.publish(event(&user, "3")).await;
    assert_eq!(published.id, Some(EventId { seq: 1, ..ahead }));
    assert_eq!(published.nodes, ["node-1".parse::<NodeId>().unwrap()]);
}
