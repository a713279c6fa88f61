//! One budget for all nodes that leave.

use std::time::Duration;

use switchboard::engine::Leaving;

use crate::stage::{Kind, Stage};

/// What a stage's engine is told: clients a second for each node that stays.
const STEP: Duration = Duration::from_millis(1);

async fn drain(stage: &Stage, clients: usize, left_ms: u64) -> (Duration, Duration) {
    let (left, longest) = (Duration::from_millis(left_ms), Duration::from_secs(20));
    let slots = stage.engine.drain(Leaving { clients, later: 0, left, longest }).await.unwrap();
    (slots.first, slots.step)
}

#[tokio::test]
async fn nodes_that_leave_at_once_take_turns() {
    let a = Kind::Redis.stage().await;
    let (b, c) = (a.another("node-2").await, a.another("node-3").await);
    // Two stay: a client every half a step.
    assert_eq!(drain(&a, 20_000, 20_000).await, (Duration::ZERO, STEP / 2));
    let (first, step) = drain(&b, 5_000, 20_000).await;
    assert_eq!(step, STEP, "one stays");
    // After the 10 s that the first has taken, less what has passed since.
    assert!(first > Duration::from_secs(5) && first <= Duration::from_secs(10), "{first:?}");
    let (then, _) = drain(&b, 1, 20_000).await;
    assert!(then > first, "its own earlier ones count too: {then:?}");
    // Nobody is left: as if one stayed, who may come soon.
    assert_eq!(drain(&c, 1, 20_000).await.1, STEP);
}

#[tokio::test]
async fn the_budget_is_forgotten_with_the_last_drain() {
    let a = Kind::Redis.stage().await;
    let b = a.another("node-2").await;
    drain(&a, 1, 10_000).await;
    drain(&b, 1, 10_000).await;
    drain(&a, 0, 0).await;
    let fields: Vec<String> = a.ask(&["HKEYS", "drain"]);
    assert!(
        fields.contains(&"node node-2".to_owned()) && !fields.contains(&"node node-1".to_owned()),
        "{fields:?}"
    );
    a.time_passes(Duration::from_millis(5)).await;
    drain(&b, 0, 0).await;
    assert_eq!(a.ask::<i64>(&["EXISTS", "drain"]), 0);
    // One that died while it left is not counted for ever.
    drain(&a, 1, 1).await;
    a.time_passes(Duration::from_millis(20)).await;
    assert_eq!(drain(&b, 1, 1000).await.1, STEP);
    let fields: Vec<String> = a.ask(&["HKEYS", "drain"]);
    assert!(!fields.contains(&"node node-1".to_owned()), "{fields:?}");
    assert!(a.ask::<i64>(&["PTTL", "drain"]) > 0, "nor is the budget where all have died");
}

#[tokio::test]
async fn a_budget_that_is_too_small_becomes_an_even_spread() {
    let a = Kind::Redis.stage().await;
    let _b = a.another("node-2").await;
    let (left, longest) = (Duration::from_secs(5), Duration::from_secs(3));
    let all = Leaving { clients: 1_000, later: 15_000, left, longest };
    // 16,000 within 8 s, where the budget would take 16.
    assert_eq!(a.engine.drain(all).await.unwrap().step, STEP / 2);
}
