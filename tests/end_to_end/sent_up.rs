//! What clients send up when their node leaves.

use rustix::process::Signal;
use serde_json::json;

use crate::support::pair::Single;
use crate::support::raw::{FIN, TEXT, frame};
use crate::support::{BOUND, RawClient};

#[tokio::test]
async fn what_clients_have_sent_up_is_there_or_they_are_told_before_their_sockets_close() {
    let mut single = Single::with(&[("--drain-timeout", "1s")]).await;
    let mut clients = Vec::new();
    for number in 0..8 {
        clients.push(RawClient::open(&single.a, &format!("userId=u{number}")).await.0);
    }
    single.redis.signal(Signal::STOP);
    for client in &mut clients {
        // Both are read at once, so that the first one's answer tells that the other was.
        let frames = [r#"{"type":"ping"}"#, r#"{"type":"message","event":"cancel"}"#];
        let bytes: Vec<u8> = frames.iter().flat_map(|text| frame(FIN | TEXT, text.as_bytes())).collect();
        assert!(client.write(&bytes).await);
        assert_eq!(client.json("a pong").await["type"], "pong");
    }
    single.a.signal(Signal::TERM);
    let mut told = Vec::new();
    for (number, client) in clients.iter_mut().enumerate() {
        let mut types = Vec::new();
        while types.last() != Some(&json!("bye")) {
            types.push(client.json("a bye").await["type"].clone());
        }
        told.push(types.contains(&json!("error")));
        if number == 0 {
            single.redis.signal(Signal::CONT); // for those who leave later
        }
    }
    assert_eq!(single.a.exit(BOUND).await.code(), Some(0));
    let there: Vec<_> =
        single.db.stream("uplink").await.iter().map(|entry| entry.get("user").to_owned()).collect();
    for (number, told) in told.into_iter().enumerate() {
        assert!(
            told || there.contains(&format!("u{number}")),
            "u{number} was told nothing, and {there:?} are there"
        );
    }
}
