//! The lease on an ingress stream: one node reads at a time, and what others left behind stays or goes.

use std::collections::HashMap;
use std::time::Duration;

use crate::stage::{Kind, Stage};

const LONG: &str = "60000";

/// Entries' ids, and their fields and values.
type Entries = Vec<(String, Vec<String>)>;

/// Whether `node` has its lease now, the first or a later one, for so many ms.
fn lead_as(stage: &Stage, node: &str, number: u32, ttl: &str) -> bool {
    lead_having_read(stage, node, number, ttl, "")
}

/// As `lead_as`, where the process has found the stream before, and read up to that id there.
fn lead_having_read(stage: &Stage, node: &str, number: u32, ttl: &str, read: &str) -> bool {
    let lease = format!("boot-{node}.{number}");
    let script = include_str!("../../lua/lead.lua");
    stage.ask::<i64>(&["EVAL", script, "1", "other", node, &lease, ttl, read]) == 1
}

fn lead(stage: &Stage, node: &str, ttl: &str) -> bool {
    lead_as(stage, node, 1, ttl)
}

/// What `node` is given to read with that lease; none where the stream is not its own by that.
fn take_as(stage: &Stage, node: &str, number: u32) -> Option<Entries> {
    take_some(stage, node, number, "10", "1000000")
}

/// As `take_as`: entries, and bytes, at most.
fn take_some(stage: &Stage, node: &str, number: u32, most: &str, bytes: &str) -> Option<Entries> {
    take_from(stage, node, number, most, bytes, ">").map(|(_, entries)| entries)
}

/// As `take_some`, of those that were handed out from an id on; also from where these go on.
fn take_from(
    stage: &Stage,
    node: &str,
    number: u32,
    most: &str,
    bytes: &str,
    from: &str,
) -> Option<(String, Entries)> {
    let lease = format!("boot-{node}.{number}");
    let script = include_str!("../../lua/take.lua");
    stage.ask(&["EVAL", script, "1", "other", node, &lease, most, bytes, "100000", from])
}

fn take(stage: &Stage, node: &str) -> Option<Entries> {
    take_as(stage, node, 1)
}

fn entry(stage: &Stage) {
    let _: String = stage.ask(&["XADD", "other", "*", "user", "42", "event", "e"]);
}

fn consumers(stage: &Stage) -> Vec<String> {
    let all: Vec<HashMap<String, redis::Value>> = stage.ask(&["XINFO", "CONSUMERS", "other", "switchboard"]);
    let name = |consumer: &HashMap<String, redis::Value>| redis::from_redis_value(consumer["name"].clone());
    all.iter().map(|consumer| name(consumer).unwrap()).collect()
}

/// Whether Redis takes an entry with that id.
fn takes_id(stage: &Stage, id: &str) -> bool {
    let add = "return redis.pcall('XADD', KEYS[1], ARGV[1], 'user', '42', 'event', 'e').err and 0 or 1";
    stage.ask::<i64>(&["EVAL", add, "1", "other", id]) == 1
}

#[tokio::test]
async fn a_stream_that_was_deleted_takes_no_ids_from_before_that() {
    let stage = Kind::Redis.stage().await;
    assert!(lead(&stage, "a", LONG));
    assert!(takes_id(&stage, "1-1"), "the first stream there is");
    let time: Vec<u64> = stage.ask(&["TIME"]);
    let deleted = || assert_eq!(stage.ask::<i64>(&["DEL", "other"]), 1);
    deleted();
    assert!(lead_having_read(&stage, "a", 1, LONG, "0-0"));
    for (id, taken) in [("1-2", false), (&format!("{}-0", time[0] * 1000)[..], false), ("*", true)] {
        assert_eq!(takes_id(&stage, id), taken, "{id}");
    }
    assert_eq!(take(&stage, "a").unwrap().len(), 1);
    // Its ids were ahead of the clock.
    deleted();
    let ahead = format!("{}0-0", time[0] * 1000);
    assert!(lead_having_read(&stage, "a", 1, LONG, &ahead));
    assert!(!takes_id(&stage, &ahead) && takes_id(&stage, "*"));
    // Whoever added something was there first.
    deleted();
    assert!(
        takes_id(&stage, "1-1") && lead_having_read(&stage, "a", 1, LONG, "0-0") && takes_id(&stage, "1-2")
    );
    assert_eq!(take(&stage, "a").unwrap().len(), 2);
}

/// More than a lease of one millisecond.
async fn it_lapses(stage: &Stage) {
    stage.time_passes(Duration::from_millis(5)).await;
}

#[tokio::test]
async fn who_has_no_lease_takes_nothing() {
    let stage = Kind::Redis.stage().await;
    let () = stage.ask(&["XGROUP", "CREATE", "other", "switchboard", "0", "MKSTREAM"]);
    entry(&stage);
    assert_eq!(take(&stage, "a"), None, "nobody has it");
    assert!(lead(&stage, "b", LONG));
    assert_eq!(take(&stage, "a"), None, "another has it");
    assert_eq!(take(&stage, "b").unwrap().len(), 1, "and gets what waits");
    assert_eq!(take(&stage, "b").unwrap().len(), 0);
}

#[tokio::test]
async fn a_lease_is_one_nodes_until_it_lapses_or_is_given_back() {
    let stage = Kind::Redis.stage().await;
    assert!(lead(&stage, "a", LONG));
    assert!(!lead(&stage, "b", LONG), "another has it");
    assert!(!lead(&stage, "a", "0"), "given back");
    assert!(lead(&stage, "b", "1"));
    entry(&stage);
    it_lapses(&stage).await;
    assert_eq!(take(&stage, "b"), None, "lapsed");
    assert!(lead(&stage, "a", LONG));
    assert_eq!(take(&stage, "a").unwrap().len(), 1);
}

/// Each of them was held back on its way, and its process has gone on with another lease.
#[tokio::test]
async fn what_comes_for_an_earlier_lease_of_the_same_process_is_refused() {
    let stage = Kind::Redis.stage().await;
    assert!(lead_as(&stage, "a", 9, LONG));
    assert!(lead_as(&stage, "a", 10, LONG), "one process need not wait for itself");
    entry(&stage);
    assert_eq!(take_as(&stage, "a", 9), None, "a read");
    assert!(!lead_as(&stage, "a", 9, LONG), "a renewal");
    assert!(!lead_as(&stage, "a", 9, "0"), "or that it is given back");
    assert_eq!(take_as(&stage, "a", 10).unwrap().len(), 1);
}

#[tokio::test]
async fn a_lease_without_a_number_is_anothers_until_its_end() {
    let stage = Kind::Redis.stage().await;
    assert!(lead(&stage, "a", "0") || consumers(&stage).is_empty()); // the group is there
    for (until, ours) in [("9000000000000", false), ("1700000000000", true)] {
        let theirs = format!("lease n a {until}");
        let _: i64 = stage.ask(&["XGROUP", "CREATECONSUMER", "other", "switchboard", &theirs]);
        assert_eq!(lead(&stage, "a", LONG), ours, "{theirs}");
        let _: i64 = stage.ask(&["XGROUP", "DELCONSUMER", "other", "switchboard", &theirs]);
    }
}

#[tokio::test]
async fn a_lease_however_often_renewed_is_one_consumer() {
    let stage = Kind::Redis.stage().await;
    for _ in 0..3 {
        assert!(lead(&stage, "a", LONG));
        // Its end is part of its name.
        stage.time_passes(Duration::from_millis(2)).await;
    }
    assert_eq!(consumers(&stage).len(), 1, "{:?}", consumers(&stage));
}

#[tokio::test]
async fn who_left_nothing_behind_is_struck_off_and_nobody_else() {
    let stage = Kind::Redis.stage().await;
    assert!(lead(&stage, "a", "1"));
    for name in ["idle", "since-1"] {
        let _: i64 = stage.ask(&["XGROUP", "CREATECONSUMER", "other", "switchboard", name]);
    }
    entry(&stage);
    let _: redis::Value = stage.ask(&["XREADGROUP", "GROUP", "switchboard", "a", "STREAMS", "other", ">"]);
    it_lapses(&stage).await;
    assert!(lead(&stage, "b", LONG));
    let left = consumers(&stage);
    let has = |name: &str| left.iter().any(|consumer| consumer == name);
    assert!(!has("idle"), "{left:?}");
    assert!(has("since-1"), "the age of the data is lost: {left:?}");
    assert!(has("a"), "what it had in hand is lost: {left:?}");
    let pending: (usize, redis::Value, redis::Value, redis::Value) =
        stage.ask(&["XPENDING", "other", "switchboard"]);
    assert_eq!(pending.0, 1);
}

/// Those who stand by ask about once a second, and operators look at what Redis counts as errors.
#[tokio::test]
async fn asking_for_it_again_is_no_error_to_redis() {
    let stage = Kind::Redis.stage().await;
    assert!(lead(&stage, "a", LONG));
    let () = stage.ask(&["CONFIG", "RESETSTAT"]);
    assert!(lead(&stage, "a", LONG));
    assert!(!lead(&stage, "b", LONG));
    let errors: String = stage.ask(&["INFO", "errorstats"]);
    assert!(!errors.contains("BUSYGROUP"), "{errors}");
}

#[tokio::test]
async fn a_read_ends_with_so_many_entries_or_soon_after_so_many_bytes() {
    let stage = Kind::Redis.stage().await;
    assert!(lead(&stage, "a", LONG));
    (0..40).for_each(|_| entry(&stage));
    let large = "x".repeat(10_000);
    for _ in 0..40 {
        let _: String = stage.ask(&["XADD", "other", "*", "user", "42", "event", "e", "data", &large]);
    }
    let mut taken = Vec::new();
    for _ in 0..7 {
        taken.push(take_some(&stage, "a", 1, "30", "50000").unwrap());
    }
    // One, two, four and eight at a time: the last 10 small ones come with 5 that are large.
    assert_eq!(taken.iter().map(Vec::len).collect::<Vec<_>>(), [30, 15, 7, 7, 7, 7, 7]);
    let ids: Vec<_> = taken.iter().flatten().map(|(id, _)| id).collect();
    let all: Entries = stage.ask(&["XRANGE", "other", "-", "+"]);
    assert_eq!(ids, all.iter().map(|(id, _)| id).collect::<Vec<_>>());
    assert_eq!(take_some(&stage, "a", 1, "30", "50000"), Some(Vec::new()));
}

#[tokio::test]
async fn what_was_handed_out_is_taken_over_in_order_in_as_many_reads_as_it_takes() {
    let stage = Kind::Redis.stage().await;
    assert!(lead(&stage, "a", LONG));
    (0..45).for_each(|_| entry(&stage));
    assert_eq!(take_some(&stage, "a", 1, "45", "1000000").unwrap().len(), 45);
    entry(&stage);
    let mut all: Entries = stage.ask(&["XRANGE", "other", "-", "+"]);
    all.pop(); // nobody was handed that one
    for (deleted, _) in all.extract_if(.., |(id, _)| ["3", "7"].contains(&&id[id.len() - 1..])) {
        let _: i64 = stage.ask(&["XDEL", "other", &deleted]);
    }
    assert!(!lead(&stage, "b", LONG) && !lead_as(&stage, "a", 1, "0") && lead(&stage, "b", LONG));
    let (mut from, mut taken, mut reads) = ("0-0".to_owned(), Vec::new(), 0);
    while reads == 0 || from != "0-0" {
        let (next, entries) = take_from(&stage, "b", 1, "20", "1000000", &from).unwrap();
        assert!(entries.len() <= 20, "{}", entries.len());
        taken.extend(entries);
        (from, reads) = (next, reads + 1);
    }
    assert_eq!(taken, all);
    assert!(reads >= 2, "in {reads} reads");
    assert_eq!(take(&stage, "b").unwrap().len(), 1, "what nobody was handed comes after that");
    assert_eq!(take_from(&stage, "a", 1, "20", "1000000", "0-0"), None, "another has the lease");
}

#[tokio::test]
async fn of_an_entry_that_is_too_large_the_beginning_is_handed_out() {
    let stage = Kind::Redis.stage().await;
    assert!(lead(&stage, "a", LONG));
    let (fits, large) = ("x".repeat(99_990), "x".repeat(100_000));
    let fields: Vec<String> = (0..65).map(|at| at.to_string()).collect();
    let many: Vec<&str> = fields.iter().flat_map(|field| [&field[..], "v"]).collect();
    for entry in [&["event", &fits][..], &["event", &large], &many[..128], &many] {
        let _: String = stage.ask(&[&["XADD", "other", "*"][..], entry].concat());
    }
    let taken = take(&stage, "a").unwrap();
    let of = |at: usize| taken[at].1.iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(of(0), ["event", &fits]);
    assert_eq!(of(1), ["", "100005 1", "event", &large[..128]]);
    assert_eq!(of(2), many[..128]);
    let bytes: usize = many.iter().map(|text| text.len()).sum();
    assert_eq!(of(3), [&["", &format!("{bytes} 65")], &many[..128]].concat());
}
