//! Redis comes back without its newest writes, and a session was told of them: whoever was away hears of it as well.

use std::time::Duration;

use switchboard::engine::{Connected, Mode, Registration};
use switchboard::id::{EventId, UserId};

use crate::stage::{Kind, Stage, ids, user};

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
        let (stage, user) = (Kind::Redis.stage().await, user("42"));
        stage.connect(&user, "tab").await;
        let kept = [stage.publish_plain(&user, "1").await, stage.publish_plain(&user, "2").await];
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
        let mode = Mode::Resume { order: u64::MAX, told: Some(told) };
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
async fn what_was_cut_or_collapsed_is_not_lost() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let from = stage.connect(&user, "tab").await.position;
    let progress = |data: &str| switchboard::engine::Event {
        collapse: Some("p".parse().unwrap()),
        ..crate::stage::event(&user, data)
    };
    let older = stage.publish(progress("1")).await.id.unwrap();
    let newer = stage.publish(progress("2")).await.id.unwrap();
    let redis = Lost { stage, user: user.clone(), kept: [from; 2], lost: [older; 2] };
    let page = redis.look(from, older).await;
    assert_eq!((ids(&page), page.whole), (vec![newer], true));
    let _: i64 = redis.stage.ask(&["XTRIM", KEYS[0], "MAXLEN", "0"]);
    let next = redis.stage.publish_plain(&user, "3").await;
    let page = redis.look(newer, newer).await;
    assert_eq!((ids(&page), page.whole), (vec![next], true));
}
