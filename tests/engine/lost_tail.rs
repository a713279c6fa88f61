//! Redis comes back without its newest writes, and a session was told of them: whoever was away hears of it as well.

use std::time::Duration;

use switchboard::engine::{Connected, Event, LeaseState, Mode, Registration, Told};
use switchboard::id::{EventId, UserId};

use crate::recorder;
use crate::stage::{Kind, Stage, event, ids, user};

const KEYS: [&str; 3] = ["log:{user:42}", "nodes:{user:42}", "cursor:{user:42}"];

/// A user with a session, two events, and two more that Redis has lost.
struct Lost {
    stage: Stage,
    user: UserId,
    kept: [EventId; 2],
    lost: [EventId; 2],
}

impl Lost {
    async fn new() -> Self {
        Self::after(0).await
    }

    /// With so many events more that are kept.
    async fn after(more: usize) -> Self {
        let (stage, user) = (Kind::Redis.stage().await, user("42"));
        stage.connect(&user, "tab").await;
        let first = stage.publish_plain(&user, "1").await;
        for _ in 0..more {
            stage.publish_plain(&user, "more").await;
        }
        let kept = [first, stage.publish_plain(&user, "2").await];
        for key in KEYS {
            let _: i64 = stage.ask(&["COPY", key, &format!("kept:{key}")]);
        }
        let lost = [stage.publish_plain(&user, "3").await, stage.publish_plain(&user, "4").await];
        for key in KEYS {
            let _: i64 = stage.ask(&["COPY", &format!("kept:{key}"), key, "REPLACE"]);
        }
        stage.time_passes(Duration::from_millis(5)).await; // or ids come again
        Self { stage, user, kept, lost }
    }

    /// The session looks into its log.
    async fn look(&self, since: EventId, told: EventId) -> Registration {
        self.look_with(since, Told { event: told, knows: since, ..Told::default() }).await
    }

    async fn look_with(&self, since: EventId, told: Told) -> Registration {
        let mode = Mode::Resume { order: u64::MAX, told };
        match self.stage.try_connect(&self.user, "tab", mode, Some(since)).await {
            Connected::Registered(page) => page,
            refused => panic!("{refused:?}"),
        }
    }

    /// Who was away is told, wherever it stood, and once.
    async fn is_told_to_all_who_were_away(&self, newer: &[EventId]) {
        for (client, since) in
            [("a", EventId::ZERO), ("b", self.kept[0]), ("c", self.kept[1]), ("d", self.lost[0])]
        {
            let client = &format!("{client}-{}", newer.len());
            let page = self.stage.connect_since(&self.user, client, since).await;
            assert!(!page.whole, "since {since}");
            assert!(ids(&page).ends_with(newer), "{page:?}");
            assert!(self.stage.connect_since(&self.user, client, page.upto).await.whole, "{page:?}");
        }
    }
}

#[tokio::test]
async fn what_a_session_misses_in_the_log_is_told_to_those_who_were_away() {
    let redis = Lost::new().await;
    let page = redis.look(redis.lost[1], redis.lost[1]).await;
    assert!(!page.whole && page.position > redis.lost[1], "{page:?}");
    assert!(redis.look(page.position, redis.lost[1]).await.whole, "it was told");
    redis.is_told_to_all_who_were_away(&[]).await;

    let next = redis.stage.publish_plain(&redis.user, "5").await;
    let page = redis.look(page.position, redis.lost[1]).await;
    assert_eq!((ids(&page), page.whole), (vec![next], true));
    redis.is_told_to_all_who_were_away(&[next]).await;
}

#[tokio::test]
async fn an_event_that_comes_before_the_session_looks_hides_nothing() {
    let redis = Lost::new().await;
    let next = redis.stage.publish_plain(&redis.user, "5").await;
    assert!(redis.look(next, next).await.whole, "a session that came later knows of nothing");
    let page = redis.look(redis.lost[1], redis.lost[1]).await;
    assert_eq!((ids(&page), page.whole), (vec![next], false));
    assert!(redis.look(next, next).await.whole);
    redis.is_told_to_all_who_were_away(&[next]).await;
}

#[tokio::test]
async fn an_event_that_was_only_heard_of_is_missed_as_well() {
    let redis = Lost::new().await;
    let page = redis.look(redis.kept[1], redis.lost[1]).await;
    assert!(!page.whole && page.position > redis.lost[1], "{page:?}");
    redis.is_told_to_all_who_were_away(&[]).await;
}

#[tokio::test]
async fn what_is_lost_is_remembered_when_the_session_has_gone() {
    let redis = Lost::new().await;
    redis.look(redis.lost[1], redis.lost[1]).await;
    redis.stage.disconnect(&redis.user, "tab", None).await;
    let next = redis.stage.publish_plain(&redis.user, "5").await;
    redis.is_told_to_all_who_were_away(&[next]).await;
}

#[tokio::test]
async fn whoever_comes_back_before_a_loss_is_noted_is_told_as_well() {
    for (on_another_node, has_got_more) in [(false, false), (false, true), (true, false), (true, true)] {
        let redis = Lost::new().await;
        let (user, another) = (&redis.user, redis.stage.another("node-2").await);
        let stage = if on_another_node { &another } else { &redis.stage };
        redis.stage.heartbeat(user, &[("known", redis.kept[1])]).await;
        let back = [
            ("since", stage.connect_since(user, "since", redis.kept[0]).await, true),
            ("known", stage.connect(user, "known").await, true),
            ("new", stage.connect(user, "new").await, false),
        ];
        let mut newest = redis.kept[1];
        assert!(back.iter().all(|(_, page, _)| page.whole && page.upto == newest), "{back:?}");
        if has_got_more {
            newest = redis.stage.publish_plain(user, "5").await;
        }
        assert!(!redis.look(redis.lost[1], redis.lost[1]).await.whole);
        let is_look = |told: &recorder::Told| *told == recorder::Told::Look(user.to_string(), None);
        stage.node.wait_for("a look", |told| is_look(told).then_some(())).await;
        // Should that go astray, the next heartbeat says it as well.
        let LeaseState::Renewed { lost, .. } = stage.heartbeat(user, &[]).await else { panic!("no lease") };
        for (client, page, misses) in back {
            let look = async |since, knows| {
                let mode = Mode::Resume { order: u64::MAX, told: Told { knows, ..Told::default() } };
                match stage.try_connect(user, client, mode, Some(since)).await {
                    Connected::Registered(page) => page,
                    refused => panic!("{refused:?}"),
                }
            };
            assert!(page.knows < lost || !misses, "{client} looks");
            let page = look(newest, page.knows).await;
            assert_eq!(page.whole, !misses, "{client}, {on_another_node}, {has_got_more}: {page:?}");
            assert!(
                page.from < redis.lost[0] || !misses,
                "it may have missed what came before {newest}: {page:?}"
            );
            assert!(page.knows >= lost, "{client} need not look again");
            assert!(look(page.upto, page.knows).await.whole, "{client} was told");
        }
    }
}

#[tokio::test]
async fn a_loss_of_which_nobody_can_be_told_yet_is_told_with_the_next_beat() {
    let redis = Lost::new().await;
    let (a, b) = (&redis.stage, redis.stage.another("node-2").await);
    b.connect(&redis.user, "other").await;
    let inbox = "inbox:{node:node-2}";
    let () = a.ask(&["SET", inbox, "x"]); // nothing can be added to what is no stream
    assert!(!redis.look(redis.lost[1], redis.lost[1]).await.whole, "who has shown it is told all the same");
    let () = a.ask(&["DEL", inbox]);
    let () = a.ask(&["XGROUP", "CREATE", inbox, "node", "0", "MKSTREAM"]);
    assert!(a.engine.beat(0, 0).await.unwrap());
    let is_look = |told: &recorder::Told| matches!(told, recorder::Told::Look(..));
    b.node.wait_for("a look", |told| is_look(told).then_some(())).await;
    assert!(!a.node.told().iter().any(is_look), "nobody else is there");
}

fn progress(user: &UserId, data: &str) -> Event {
    Event { collapse: Some("p".parse().unwrap()), ..event(user, data) }
}

#[tokio::test]
async fn a_loss_that_a_hint_has_shown_needs_no_proof_in_the_log() {
    let redis = Lost::new().await;
    redis.stage.publish(progress(&redis.user, "5")).await; // its hint shows it, and then it is replaced
    let newer = redis.stage.publish(progress(&redis.user, "6")).await.id.unwrap();
    let told = Told { event: redis.lost[1], is_lost: true, knows: redis.kept[0] };
    let page = redis.look_with(redis.lost[1], told).await;
    assert_eq!((ids(&page), page.whole), (vec![newer], false));
    redis.is_told_to_all_who_were_away(&[newer]).await;
}

#[tokio::test]
async fn of_many_pages_the_first_alone_tells_of_a_loss() {
    let redis = Lost::after(150).await;
    redis.look(redis.lost[1], redis.lost[1]).await;
    let mut page = redis.stage.connect_since(&redis.user, "away", redis.kept[0]).await;
    assert!(!page.whole && page.more, "{page:?}");
    while page.more {
        let mode = Mode::Resume { order: u64::MAX, told: Told { knows: page.knows, ..Told::default() } };
        let next = redis.stage.try_connect(&redis.user, "away", mode, Some(page.upto)).await;
        let Connected::Registered(next) = next else { panic!("{next:?}") };
        assert!(next.whole, "told again: {next:?}");
        page = next;
    }
    assert_eq!(page.upto, page.position);
}

#[tokio::test]
async fn whoever_has_confirmed_what_is_behind_a_loss_knows_of_it() {
    let redis = Lost::new().await;
    let position = redis.look(redis.lost[1], redis.lost[1]).await.position;
    redis.stage.heartbeat(&redis.user, &[("tab", position)]).await;
    for newest in [redis.kept[1], redis.lost[0], redis.lost[1], position] {
        assert!(redis.stage.connect_since(&redis.user, "tab", newest).await.whole, "since {newest}");
    }
    // A pong confirms more than a page has worked through. Whoever goes back gets what is left, and is told.
    assert!(!redis.stage.connect_since(&redis.user, "tab", redis.kept[0]).await.whole);
    assert!(!redis.stage.connect_since(&redis.user, "other", redis.kept[1]).await.whole);
}

#[tokio::test]
async fn ids_go_on_behind_what_is_lost_wherever_the_clock_stands() {
    for (refused, deleted) in [(false, false), (false, true), (true, false)] {
        let redis = Lost::new().await;
        if refused {
            let () = redis.stage.ask(&["ACL", "SETUSER", "default", "-xsetid"]);
        }
        let ahead = EventId { ms: redis.lost[1].ms + 60_000, seq: 0 };
        let position = redis.look(ahead, ahead).await.position;
        if deleted {
            let () = redis.stage.ask(&["DEL", KEYS[0]]);
        }
        let next = redis.stage.publish_plain(&redis.user, "5").await;
        assert!(next > position, "{next} after {position}, refused: {refused}, deleted: {deleted}");
    }
}

#[tokio::test]
async fn what_is_lost_of_an_empty_log_is_missed_as_well() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let before = stage.connect(&user, "tab").await.position;
    stage.time_passes(Duration::from_millis(5)).await;
    let lost = stage.publish_plain(&user, "1").await;
    let () = stage.ask(&["DEL", KEYS[0]]);
    for (key, field) in [(KEYS[1], "@last"), (KEYS[2], "@newest"), (KEYS[2], "@start")] {
        let _: i64 = stage.ask(&["HDEL", key, field]);
    }
    let () = stage.ask(&["HSET", KEYS[2], "@empty", &before.to_string()]);
    stage.time_passes(Duration::from_millis(5)).await; // or ids come again
    let redis = Lost { stage, user, kept: [before; 2], lost: [lost; 2] };
    assert!(redis.look(before, EventId::ZERO).await.whole, "a session that came later knows of nothing");
    let page = redis.look(lost, lost).await;
    assert!(!page.whole && page.position > lost, "{page:?}");
    assert!(redis.look(page.position, lost).await.whole, "it was told");
    redis.is_told_to_all_who_were_away(&[]).await;
}

#[tokio::test]
async fn what_was_cut_or_collapsed_is_not_lost() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let from = stage.connect(&user, "tab").await.position;
    let older = stage.publish(progress(&user, "1")).await.id.unwrap();
    let newer = stage.publish(progress(&user, "2")).await.id.unwrap();
    let redis = Lost { stage, user: user.clone(), kept: [from; 2], lost: [older; 2] };
    let page = redis.look(from, older).await;
    assert_eq!((ids(&page), page.whole), (vec![newer], true));
    let _: i64 = redis.stage.ask(&["XTRIM", KEYS[0], "MAXLEN", "0"]);
    let next = redis.stage.publish_plain(&user, "3").await;
    let page = redis.look(newer, newer).await;
    assert_eq!((ids(&page), page.whole), (vec![next], true));
}

#[tokio::test]
async fn a_session_that_has_moved_here_does_not_yield_to_where_older_data_have_it() {
    let (here, user) = (Kind::Redis.stage().await, user("42"));
    let there = here.another("node-2").await;
    let keys = ["user:42", "nodes:{user:42}", "cursor:{user:42}"];
    there.connect(&user, "tab").await;
    for key in keys {
        let _: i64 = here.ask(&["COPY", key, &format!("kept:{key}")]);
    }
    here.time_passes(Duration::from_millis(5)).await;
    let moved = here.connect(&user, "tab").await;
    for key in keys {
        let _: i64 = here.ask(&["COPY", &format!("kept:{key}"), key, "REPLACE"]);
    }
    let mode = Mode::Resume { order: moved.order, told: Told::default() };
    let resumed = here.try_connect(&user, "tab", mode, Some(moved.position)).await;
    assert!(matches!(resumed, Connected::Registered(_)), "{resumed:?}");
    assert_eq!(here.sessions(&user).await, ["tab@node-1"]);
}
