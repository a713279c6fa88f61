//! A clearing up that takes longer than a lease may.

use super::super::tests::{context, fake};
use super::*;

/// The answer to whatever else a claim asks: user 42 was left behind.
fn otherwise(command: &str) -> &'static str {
    match command.split(' ').next() {
        _ if command.contains(scripts::BEAT.get_hash()) => "*2\r\n:1000\r\n:1",
        Some("SMEMBERS") => "*1\r\n$2\r\n42",
        Some("XINFO" | "ZRANGE") => "*0",
        _ => "+OK",
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_does_not_begin_before_a_long_clearing_up() {
    let mut users = "*1\r\n$2\r\n42";
    let place = fake(move |command| {
        let is = |script: &redis::Script| command.contains(script.get_hash());
        Some(if is(&scripts::CLAIM) {
            if users == "*0" { "*3\r\n:1\r\n:1000\r\n:0" } else { "*3\r\n:1\r\n:1000\r\n:1" }
        } else if is(&scripts::DISCONNECT) {
            tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(200)));
            users = "*0";
            "*1\r\n$2\r\n0 "
        } else if command.starts_with("SMEMBERS") {
            users
        } else {
            otherwise(command)
        })
    });
    let context = context(place.await, Duration::from_millis(300));
    assert_eq!(claim(&context).await.unwrap(), Claim::ClearingUp);
    assert_eq!(claim(&context).await.unwrap(), Claim::Held);
}

/// Users of whom `presence` is told later stay on the list. Were they cleared up after with each claim, a lease would
/// never begin where that takes long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cleared_up_after_is_not_again_unless_the_claim_has_lapsed() {
    // Where it has lapsed, another process may have served meanwhile.
    let mut claims = ["*3\r\n:1\r\n:1000\r\n:1", "*3\r\n:1\r\n:1000\r\n:1", "*3\r\n:2\r\n:1000\r\n:1"].iter();
    let place = fake(move |command| {
        let is = |script: &redis::Script| command.contains(script.get_hash());
        Some(if is(&scripts::CLAIM) {
            claims.next().unwrap()
        } else if is(&scripts::DISCONNECT) {
            tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(200)));
            "*1\r\n$15\r\n0 0 5 offline n"
        } else if is(&scripts::TELL) {
            "-WRONGTYPE of another kind"
        } else {
            otherwise(command)
        })
    });
    let context = context(place.await, Duration::from_millis(300));
    for then in [Claim::ClearingUp, Claim::ClearingUp, Claim::Held] {
        assert_eq!(claim(&context).await.unwrap(), then);
    }
}

#[tokio::test]
async fn a_claim_that_is_tried_again_soon_asks_for_no_user_again() {
    let (mut claims, ends) = (0, Arc::new(AtomicI64::new(0)));
    let counted = ends.clone();
    let place = fake(move |command| {
        let is = |script: &redis::Script| command.contains(script.get_hash());
        Some(if is(&scripts::CLAIM) {
            claims += 1;
            if claims == 1 { "*3\r\n:1\r\n:1000\r\n:1" } else { "*3\r\n:2\r\n:1000\r\n:1" }
        } else if is(&scripts::DISCONNECT) {
            counted.fetch_add(1, Ordering::AcqRel);
            "-NOPERM this user has no permissions"
        } else {
            otherwise(command)
        })
    });
    let context = context(place.await, Duration::from_secs(3600));
    for _ in 0..3 {
        let error = claim(&context).await.unwrap_err();
        assert!(error.reason.contains("permissions"), "{error}");
    }
    assert!(ends.load(Ordering::Acquire) < 3);
    *lock(&context.claims.failed) = None;
    claim(&context).await.unwrap_err();
    assert!(ends.load(Ordering::Acquire) >= 2);
}
