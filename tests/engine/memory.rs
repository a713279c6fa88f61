//! When the engine in memory forgets what it holds of users who are gone; Redis does that by itself.

use switchboard::id::EventId;

use crate::stage::{Kind, Options, ids, user};

#[tokio::test]
async fn clearing_up_keeps_the_log_of_who_is_away_until_its_time_is_over() {
    let (stage, user) = (Kind::Memory.stage().await, user("42"));
    let log_ttl = Options::default().log_ttl;
    let seen = stage.publish_plain(&user, "1").await;
    let missed = stage.publish_plain(&user, "2").await;
    stage.time_passes(log_ttl * 3 / 4).await;
    stage.engine.clear_up().await.unwrap();
    let back = stage.connect_since(&user, "tab", seen).await;
    assert_eq!((ids(&back), back.whole), (vec![missed], true));

    stage.disconnect(&user, "tab", None).await;
    stage.time_passes(log_ttl * 5 / 4).await;
    stage.engine.clear_up().await.unwrap();
    let back = stage.connect_since(&user, "tab", seen).await;
    assert_eq!((ids(&back), back.whole), (vec![], false));
    assert_eq!(ids(&stage.connect_since(&user, "other", EventId::ZERO).await), []);
}

#[tokio::test]
async fn whoever_was_there_for_longer_than_a_log_lasts_keeps_its_position_when_it_leaves() {
    let (stage, user) = (Kind::Memory.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    stage.time_passes(Options::default().log_ttl * 2).await;
    stage.disconnect(&user, "tab", None).await;
    let missed = stage.publish_plain(&user, "1").await;
    let back = stage.connect(&user, "tab").await;
    assert_eq!((ids(&back), back.whole), (vec![missed], true));
}
