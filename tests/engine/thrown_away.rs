//! Redis threw a key away, or an operator deleted it: what is told then, and what goes on.

use std::time::Duration;

use switchboard::engine::LeaseState;
use switchboard::id::EventId;

use crate::stage::{Kind, ids, user};

const LOG: &str = "log:{user:42}";

#[tokio::test]
async fn whoever_was_told_of_a_gap_in_a_log_that_is_gone_stands_at_its_end() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let before = stage.connect(&user, "tab").await.position;
    stage.publish_plain(&user, "lost").await;
    let () = stage.ask(&["DEL", LOG]);
    let page = stage.connect_since(&user, "other", before).await;
    assert!(!page.whole);
    // Else it would be told so again, whenever it comes back.
    assert_eq!((page.upto, page.more), (page.position, false));
    stage.time_passes(Duration::from_millis(5)).await;
    let next = stage.publish_plain(&user, "1").await;
    let page = stage.resume(&user, "other", page.position).await;
    assert_eq!((ids(&page), page.whole), (vec![next], true));
}

#[tokio::test]
async fn nobody_stands_before_what_a_log_had_that_is_gone() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    // As where its last event is of this very millisecond, or the clock has gone back since.
    let last = EventId { ms: stage.publish_plain(&user, "lost").await.ms + 3_600_000, seq: 0 };
    let () = stage.ask(&["HSET", "nodes:{user:42}", "@last", &last.to_string()]);
    let () = stage.ask(&["DEL", LOG]);
    let welcome = stage.connect(&user, "other").await;
    assert_eq!((welcome.position, welcome.whole), (last, true));
}

#[tokio::test]
async fn a_log_that_goes_when_all_have_left_is_still_known_to_have_held_an_event() {
    for by_a_survivor in [false, true] {
        let (stage, user) = (Kind::Redis.stage().await, user("42"));
        let before = stage.connect(&user, "tab").await.position;
        let newest = stage.publish_plain(&user, "1").await;
        if by_a_survivor {
            stage.survivor().await.engine.clear_up().await.unwrap();
        } else {
            stage.disconnect(&user, "tab", None).await;
        }
        let () = stage.ask(&["DEL", LOG]);
        for (since, whole) in [(before, false), (newest, true)] {
            let page = stage.connect_since(&user, "tab", since).await;
            assert_eq!(page.whole, whole, "since {since}; by a survivor: {by_a_survivor}");
        }
    }
}

#[tokio::test]
async fn a_lease_is_lost_with_any_key_that_goes_with_it() {
    for key in ["user:42", "nodes:{user:42}", "cursor:{user:42}"] {
        let (stage, user) = (Kind::Redis.stage().await, user("42"));
        stage.connect(&user, "tab").await;
        let () = stage.ask(&["DEL", key]);
        assert_eq!(stage.heartbeat(&user, &[]).await, LeaseState::Lost, "{key}");
    }
}
