//! What may not lapse yet: logs and positions of whoever is there, and of whoever has left but now.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use switchboard::engine::LeaseState;
use switchboard::id::UserId;

use crate::stage::{Kind, Options, Stage, ids, user};

crate::on_both_engines!(
    a_position_lasts_as_long_as_the_log,
    a_position_lasts_as_long_as_what_came_before_its_node_died,
    an_idle_client_of_an_empty_log_misses_nothing_however_long,
    a_heartbeat_keeps_the_log_of_who_is_connected,
    an_event_is_kept_its_full_time_also_where_someone_was_connected,
    whoever_connects_just_before_the_log_lapses_misses_nothing,
);

/// Short, because Redis's clock is waited for.
const LOG_TTL: Duration = Duration::from_millis(300);
/// Where the machine was too slow for that, the case is told again with twice the time, so often.
const TRIES: u32 = 5;

/// Runs a case that lets so many eighths of `--log-ttl` pass in all, and comes back two eighths or more before anything
/// would lapse. Who is later than that has proved nothing.
pub async fn in_time(kind: Kind, eighths: u32, case: impl AsyncFn(&Stage, &UserId, Duration)) {
    for doublings in 0..TRIES {
        let log_ttl = LOG_TTL * 2u32.pow(doublings);
        let stage = kind.stage_with(Options { log_ttl, ..Options::default() }).await;
        let begun = Instant::now();
        let told = AssertUnwindSafe(case(&stage, &user("42"), log_ttl)).catch_unwind().await;
        let late = kind == Kind::Redis && begun.elapsed() > log_ttl * (eighths + 2) / 8;
        match told {
            Ok(()) => return,
            Err(_) if late && doublings + 1 < TRIES => {}
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// Time passes as it does for a node that renews its leases.
async fn time_passes_with_heartbeats(stage: &Stage, user: &UserId, span: Duration) {
    for _ in 0..9 {
        stage.time_passes(span / 9).await;
        assert_ne!(stage.heartbeat(user, &[]).await, LeaseState::Lost);
    }
}

async fn a_position_lasts_as_long_as_the_log(kind: Kind) {
    in_time(kind, 10, async |stage, user, ttl| {
        let welcome = stage.connect(user, "tab").await;
        stage.disconnect(user, "tab", None).await;
        stage.time_passes(ttl * 3 / 4).await;
        let missed = stage.publish_plain(user, "1").await;
        stage.time_passes(ttl / 2).await;
        // The event is kept still; so its reader's place must be.
        let back = stage.connect(user, "tab").await;
        assert_eq!((back.from, ids(&back), back.whole), (welcome.position, vec![missed], true));
    })
    .await;
}

async fn a_position_lasts_as_long_as_what_came_before_its_node_died(kind: Kind) {
    in_time(kind, 10, async |stage, user, ttl| {
        let welcome = stage.connect(user, "tab").await;
        let first = stage.publish_plain(user, "1").await;
        stage.time_passes(ttl * 3 / 4).await;
        let second = stage.publish_plain(user, "2").await;
        // No heartbeat, and no end of the session.
        stage.time_passes(ttl / 2).await;
        let back = stage.connect(user, "tab").await;
        assert_eq!((back.from, ids(&back), back.whole), (welcome.position, vec![first, second], true));
    })
    .await;
}

async fn an_idle_client_of_an_empty_log_misses_nothing_however_long(kind: Kind) {
    in_time(kind, 32, async |stage, user, ttl| {
        let welcome = stage.connect(user, "tab").await;
        time_passes_with_heartbeats(stage, user, ttl * 2).await;
        let still = stage.resume(user, "tab", welcome.position).await;
        assert_eq!((ids(&still), still.whole), (vec![], true));
        let first = stage.publish_plain(user, "1").await;
        let page = stage.resume(user, "tab", welcome.position).await;
        assert_eq!((ids(&page), page.whole), (vec![first], true));
        // And that proof does not lapse while somebody is there.
        time_passes_with_heartbeats(stage, user, ttl * 2).await;
        assert!(stage.resume(user, "tab", welcome.position).await.whole);
    })
    .await;
}

async fn a_heartbeat_keeps_the_log_of_who_is_connected(kind: Kind) {
    in_time(kind, 20, async |stage, user, ttl| {
        let welcome = stage.connect(user, "tab").await;
        let first = stage.publish_plain(user, "1").await;
        time_passes_with_heartbeats(stage, user, ttl * 2).await;
        let second = stage.publish_plain(user, "2").await;
        stage.disconnect(user, "tab", None).await;
        stage.time_passes(ttl / 2).await;
        let back = stage.connect(user, "tab").await;
        assert_eq!((back.from, ids(&back), back.whole), (welcome.position, vec![first, second], true));
    })
    .await;
}

async fn an_event_is_kept_its_full_time_also_where_someone_was_connected(kind: Kind) {
    in_time(kind, 13, async |stage, user, ttl| {
        let old = stage.publish_plain(user, "1").await;
        stage.time_passes(ttl * 3 / 4).await;
        // The log is nearly over, and no heartbeat comes before it is.
        stage.connect_since(user, "tab", old).await;
        stage.time_passes(ttl / 8).await;
        let missed = stage.publish_plain(user, "2").await;
        stage.time_passes(ttl * 3 / 4).await;
        let back = stage.connect_since(user, "other", old).await;
        assert_eq!((ids(&back), back.whole), (vec![missed], true));
    })
    .await;
}

async fn whoever_connects_just_before_the_log_lapses_misses_nothing(kind: Kind) {
    in_time(kind, 10, async |stage, user, ttl| {
        let seen = stage.publish_plain(user, "1").await;
        stage.time_passes(ttl * 3 / 4).await;
        stage.connect_since(user, "tab", seen).await;
        stage.time_passes(ttl / 2).await;
        let still = stage.resume(user, "tab", seen).await;
        assert_eq!((ids(&still), still.whole), (vec![], true));
    })
    .await;
}
