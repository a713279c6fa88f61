//! How many idempotency keys are remembered of a user, and what forgetting the rest costs Redis.

use switchboard::engine::Event;
use switchboard::id::EventId;

use crate::stage::{Kind, Options, Stage, event, user};

const CURSOR: &str = "cursor:{user:42}";
const LOG_LENGTH: usize = 64;
/// As `src/docs/limits.md` has it.
const MOST_KEYS: usize = 3 * LOG_LENGTH + 512;

crate::on_both_engines!(
    keys_of_what_is_in_the_log_and_of_the_last_that_were_replaced_are_kept,
    a_key_that_was_taken_anew_is_not_forgotten_with_its_first_event,
);

async fn stage(kind: Kind) -> Stage {
    kind.stage_with(Options { log_length: LOG_LENGTH, ..Options::default() }).await
}

async fn publish(stage: &Stage, key: &str, collapse: Option<&str>) -> EventId {
    let collapse = collapse.map(|collapse| collapse.parse().unwrap());
    let keyed = Event { key: Some(key.parse().unwrap()), collapse, ..event(&user("42"), "1") };
    stage.publish(keyed).await.id.unwrap()
}

/// How many fields of this kind are there.
fn fields(stage: &Stage, kind: &str) -> usize {
    stage.ask::<Vec<String>>(&["HKEYS", CURSOR]).iter().filter(|field| field.starts_with(kind)).count()
}

/// How often Redis has run this command.
fn calls(stage: &Stage, command: &str) -> u64 {
    let stats: String = stage.ask(&["INFO", "commandstats"]);
    let start = format!("cmdstat_{command}:calls=");
    let line = stats.lines().find_map(|line| line.strip_prefix(start.as_str()));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

async fn keys_of_what_is_in_the_log_and_of_the_last_that_were_replaced_are_kept(kind: Kind) {
    let stage = stage(kind).await;
    let mut results = Vec::new();
    for number in 0..LOG_LENGTH / 2 {
        results.push(publish(&stage, &format!("result-{number}"), None).await);
    }
    let (mut steps, mut most) = (Vec::new(), 0);
    for number in 0..1500 {
        steps.push(publish(&stage, &format!("step-{number}"), Some("progress")).await);
        if kind == Kind::Redis {
            most = most.max(fields(&stage, "@key:"));
        }
    }
    assert!(most <= MOST_KEYS, "{most} keys for a log of {LOG_LENGTH}");
    for (number, id) in results.iter().enumerate() {
        assert_eq!(publish(&stage, &format!("result-{number}"), None).await, *id);
    }
    // How many of the last there are is no promise; so many are in either engine.
    for (number, id) in steps.iter().enumerate().skip(1500 - LOG_LENGTH / 4) {
        assert_eq!(publish(&stage, &format!("step-{number}"), Some("progress")).await, *id);
    }
    assert!(publish(&stage, "step-0", Some("progress")).await > steps[1499], "the oldest is forgotten");
}

async fn a_key_that_was_taken_anew_is_not_forgotten_with_its_first_event(kind: Kind) {
    let stage = stage(kind).await;
    let first = publish(&stage, "k", Some("progress")).await;
    for _ in 0..LOG_LENGTH {
        stage.publish_plain(&user("42"), "0").await;
    }
    let second = publish(&stage, "k", None).await;
    assert!(second > first, "it was free again");
    for number in 0..1000 {
        publish(&stage, &format!("step-{number}"), Some("progress")).await;
    }
    assert_eq!(publish(&stage, "k", None).await, second);
}

#[tokio::test]
async fn keys_of_events_that_have_left_the_log_are_forgotten() {
    let stage = stage(Kind::Redis).await;
    let (mut most, mut most_fields) = (0, 0);
    for number in 0..1500 {
        // Each collapse key comes twice, so that there is a field of each kind.
        let collapse = format!("p{}", number / 2);
        publish(&stage, &format!("k{number}"), Some(&collapse)).await;
        most = most.max(fields(&stage, "@key:"));
        most_fields = most_fields.max(fields(&stage, "@"));
    }
    assert!(most <= MOST_KEYS && most_fields <= 3 * MOST_KEYS, "{most} keys, {most_fields} fields");
    let counted: usize = stage.ask(&["HGET", CURSOR, "@keys"]);
    let kinds = ["@key:", "@collapse:", "@collapsing:", "@prev:"];
    assert_eq!(counted, kinds.iter().map(|kind| fields(&stage, kind)).sum::<usize>(), "none is miscounted");
}

/// What another release has left, or a log that was longer: it goes bit by bit, so that no event costs Redis much.
#[tokio::test]
async fn no_event_pays_for_forgetting_all_that_is_old() {
    let stage = stage(Kind::Redis).await;
    let leave = "for n = 1, 2000 do redis.call('HSET', KEYS[1], '@key:old' .. n, '1-' .. n) end
        return redis.call('HSET', KEYS[1], '@keys', 2000)";
    let _: i64 = stage.ask(&["EVAL", leave, "1", CURSOR]);
    let (deleted, gathered) = (calls(&stage, "hdel"), calls(&stage, "hgetall"));
    let (mut before, mut events) = (deleted, 0);
    while fields(&stage, "@key:") > MOST_KEYS {
        publish(&stage, &format!("k{events}"), None).await;
        events += 1;
        let now = calls(&stage, "hdel");
        assert!(now - before <= 150, "one event deleted {} fields", now - before);
        before = now;
        assert!(events < 2000, "nothing is forgotten");
    }
    assert_eq!(calls(&stage, "hgetall") - gathered, events, "of the user's leases, and of nothing else");
}

/// That right is newer than the others: a rule of before does not give it.
#[tokio::test]
async fn events_are_published_once_without_the_right_to_look_through_keys() {
    let stage = stage(Kind::Redis).await;
    let () = stage.ask(&["ACL", "SETUSER", "default", "-hscan"]);
    for number in 0..4 * LOG_LENGTH + 256 {
        publish(&stage, &number.to_string(), None).await;
        publish(&stage, &number.to_string(), None).await;
    }
    assert!(fields(&stage, "@key:") > 3 * LOG_LENGTH, "nothing was forgotten");
    let () = stage.ask(&["ACL", "SETUSER", "default", "+hscan"]);
    for number in 0..LOG_LENGTH {
        publish(&stage, &format!("{number}-more"), None).await;
    }
    assert!(fields(&stage, "@key:") <= MOST_KEYS);
}
