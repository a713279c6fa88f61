//! Nodes of other releases on the same Redis: one whose keys have too different a form keeps this one waiting.

use switchboard::engine::Claim;

use crate::stage::{Kind, Stage};

/// A live node of a release with this number.
fn alive(stage: &Stage, format: &str, version: &str) {
    let () = stage.ask(&["DEL", "node:other"]);
    let fields = ["HSET", "node:other", "boot", "b", "version", version, "format", format];
    let _: i64 = stage.ask(&fields);
    let _: i64 = stage.ask(&["ZADD", "nodes", "9999999999999", "other"]);
}

#[tokio::test]
async fn a_node_does_not_serve_beside_one_whose_keys_it_cannot_share() {
    let first = Kind::Redis.stage().await;
    let late = first.another_process("node-2");
    for format in ["3", "7", "another"] {
        alive(&first, format, "9");
        let claim = late.engine.claim().await.unwrap();
        assert_eq!(claim, Claim::OtherFormat("other".parse().unwrap()), "{format}");
        assert!(!late.engine.is_up());
    }
    assert_eq!(first.ask::<i64>(&["EXISTS", "node:node-2"]), 0, "it has taken nothing");
    // Who serves goes on: the newcomer is the one to wait, and the other has done the same.
    assert_eq!(first.engine.claim().await.unwrap(), Claim::Held);
    // A survivor that clears up after it, for a moment.
    alive(&first, "3", "");
    assert_eq!(late.engine.claim().await.unwrap(), Claim::Held);
    late.engine.release().await.unwrap();
}

#[tokio::test]
async fn releases_next_to_each_other_serve_together() {
    let first = Kind::Redis.stage().await;
    for format in ["1", "2"] {
        alive(&first, format, "9");
        let late = first.another_process("node-2");
        assert_eq!(late.engine.claim().await.unwrap(), Claim::Held, "{format}");
        late.engine.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_claim_notes_the_form_unless_it_is_the_first() {
    let stage = Kind::Redis.stage().await;
    assert!(!stage.ask::<bool>(&["HEXISTS", "node:node-1", "format"]), "nothing is said of the first");
    for (format, noted) in [("1", None), ("2", Some("2".to_owned()))] {
        let script = include_str!("../../lua/claim.lua");
        let node = format!("later-{format}");
        let keys =
            [format!("node:{node}"), format!("inbox:{{node:{node}}}"), format!("users:{{node:{node}}}")];
        let mut words = vec!["EVAL", script, "3"];
        words.extend(keys.iter().map(String::as_str));
        words.extend(["boot", "9000", "9000", "0.2.0", "ws://c", "ws://w", "9000", format, "0"]);
        let _: Vec<i64> = stage.ask(&words);
        assert_eq!(stage.ask::<Option<String>>(&["HGET", &keys[0], "format"]), noted);
    }
}
