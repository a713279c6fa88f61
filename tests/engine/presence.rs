//! Edges of presence are told once, whoever tells them and however late.

use crate::stage::Kind;

/// What `tell.lua` answers for the one user it is asked about.
fn tell(stage: &crate::stage::Stage, owed: &str) -> String {
    let answer: Vec<String> =
        stage.ask(&["EVAL", include_str!("../../lua/tell.lua"), "1", "presence", "1000", "42", owed]);
    answer.into_iter().next().unwrap()
}

fn told(stage: &crate::stage::Stage) -> Vec<(String, Vec<String>)> {
    stage.ask(&["XRANGE", "presence", "-", "+"])
}

#[tokio::test]
async fn who_tells_late_notes_its_own_edge_not_a_later_one() {
    let stage = Kind::Redis.stage().await;
    let (seconds, micros): (u64, u64) = stage.ask(&["TIME"]);
    let noted = seconds * 1_000_000 + micros;
    let both = tell(&stage, &format!("0 {noted} offline a online b"));
    let late = tell(&stage, &format!("0 {noted} offline a"));
    let told = told(&stage);
    assert_eq!(told.len(), 2, "each once: {told:?}");
    assert_eq!(late, format!("offline {}", told[0].0));
    assert_eq!(both, format!("online {}", told[1].0));
    // What is left to tell after the late one's note has been told.
    let again = tell(&stage, &format!("{} {noted} online b", told[0].0));
    assert_eq!((again, self::told(&stage)), (both, told));
}

#[tokio::test]
async fn a_read_of_the_ingress_stream_without_its_lease_takes_nothing() {
    let stage = Kind::Redis.stage().await;
    let () = stage.ask(&["XGROUP", "CREATE", "other", "switchboard", "0", "MKSTREAM"]);
    let _: String = stage.ask(&["XADD", "other", "*", "user", "42", "event", "e"]);
    let lead = include_str!("../../lua/lead.lua");
    let take = |node: &str, boot: &str| -> Option<Vec<(String, Vec<String>)>> {
        stage.ask(&["EVAL", include_str!("../../lua/take.lua"), "1", "other", node, boot, "10"])
    };
    assert_eq!(take("a", "boot-a"), None, "nobody has it");
    let held: i64 = stage.ask(&["EVAL", lead, "1", "other", "b", "boot-b", "60000"]);
    assert_eq!(held, 1);
    assert_eq!(take("a", "boot-a"), None, "another has it");
    assert_eq!(take("b", "boot-b").unwrap().len(), 1, "and gets what waits");
    assert_eq!(take("b", "boot-b").unwrap().len(), 0);
    let () = stage.ask(&["DEL", "other"]);
    assert_eq!(take("b", "boot-b"), None, "gone with its group");
}
