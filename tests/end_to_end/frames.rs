//! What a client may send, what it is told when it sends something else, and what closes it.

use std::time::Duration;

use serde_json::Value;

use crate::support::raw::{BINARY, CONTINUATION, FIN, PING, PONG, TEXT, frame as raw_frame};
use crate::support::{BOUND, Client, Node, NodeBuilder, RawClient, Worker, within};

async fn node() -> Node {
    NodeBuilder::local("solo").start().await
}

#[tokio::test]
async fn a_ping_frame_gets_a_pong_frame() {
    let node = node().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    client.send(r#"{"type":"ping"}"#).await;
    assert_eq!(client.frame("a pong").await, serde_json::json!({"type": "pong"}));
}

#[tokio::test]
async fn what_is_no_known_frame_gets_an_error_and_changes_nothing() {
    let node = node().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let garbage = [
        "hello?",
        "",
        "[]",
        "42",
        "{}",
        r#"{"type":"dance"}"#,
        r#"{"type":7}"#,
        r#"{"type":"ack"}"#,
        r#"{"type":"ack","id":"soon"}"#,
        r#"{"type":"ack","id":7}"#,
        r#"{"type":"message","data":1}"#,
        r#"{"type":"message","event":"not a name","data":1}"#,
        r#"{"type":"message","event":"e","data":}"#,
    ];
    for text in garbage {
        client.send(text).await;
        let error = client.frame("an error frame").await;
        assert_eq!(error["type"], "error", "after {text:?}: {error}");
        assert_eq!(error["code"], "invalid_frame", "after {text:?}: {error}");
        assert!(error["message"].is_string(), "after {text:?}: {error}");
    }
    client.round_trip().await;
    let id = Worker::open(&node).await.event("42", "1").await;
    assert_eq!(client.event().await.id, Some(id));
}

#[tokio::test]
async fn an_acknowledgement_is_not_answered() {
    let node = node().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let id = Worker::open(&node).await.event("42", "1").await;
    client.event().await;
    client.send(&format!(r#"{{"type":"ack","id":"{id}"}}"#)).await;
    client.round_trip().await;
}

#[tokio::test]
async fn a_binary_frame_closes_with_1003() {
    let node = node().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    client.send_binary(b"\x00\x01").await;
    assert_eq!(client.closed().await.code, 1003);
}

#[tokio::test]
async fn text_that_is_not_utf8_closes_with_1007() {
    let node = node().await;
    let (mut client, _) = RawClient::open(&node, "userId=42").await;
    client.send(true, TEXT, b"{\"type\":\"\xff\xfe\"}").await;
    assert_eq!(client.closed().await.code, 1007);
}

#[tokio::test]
async fn a_frame_that_is_too_big_closes_with_1009() {
    let node = NodeBuilder::local("solo").set("--max-message", "1KiB").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    client.send(&format!(r#"{{"type":"ping","x":"{}"}}"#, "x".repeat(2048))).await;
    assert_eq!(client.closed().await.code, 1009);
}

#[tokio::test]
async fn a_message_that_gets_too_big_piece_by_piece_closes_with_1009() {
    let node = NodeBuilder::local("solo").set("--max-message", "1KiB").start().await;
    let (mut client, _) = RawClient::open(&node, "userId=42").await;
    client.send(false, TEXT, &[b'x'; 400]).await;
    for _ in 0..3 {
        client.send(false, CONTINUATION, &[b'x'; 400]).await;
    }
    assert_eq!(client.closed().await.code, 1009);
}

#[tokio::test]
async fn a_message_up_to_the_limit_is_read() {
    let node = NodeBuilder::local("solo").set("--max-message", "1KiB").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    // White space pads a good frame to exactly the limit.
    client.send(&format!("{:1024}", r#"{"type":"ping"}"#)).await;
    assert_eq!(client.frame("a pong").await["type"], "pong");
}

#[tokio::test]
async fn a_message_in_pieces_is_put_together_even_around_a_ping() {
    let node = node().await;
    let (mut client, _) = RawClient::open(&node, "userId=42").await;
    client.send(false, TEXT, br#"{"type""#).await;
    client.send(true, PING, b"are you there").await;
    client.send(false, CONTINUATION, br#":"pi"#).await;
    client.send(true, CONTINUATION, br#"ng"}"#).await;
    let mut pong_frame = None;
    let mut pong: Option<Value> = None;
    while pong_frame.is_none() || pong.is_none() {
        let frame = client.frame("both pongs").await.expect("an open connection");
        match frame.opcode {
            PONG => pong_frame = Some(frame.payload),
            TEXT => pong = serde_json::from_slice(&frame.payload).ok(),
            _ => {}
        }
    }
    assert_eq!(pong_frame.as_deref(), Some(&b"are you there"[..]));
    assert_eq!(pong.unwrap()["type"], "pong");
}

#[tokio::test]
async fn a_client_that_closes_is_answered() {
    let node = node().await;
    let client = Client::as_user(&node, "42", "tab-1").await;
    let answer = within(BOUND, "the answer to a close", client.close()).await;
    assert_eq!(answer, Some(1005), "a close without a code gets one without a code");
}

#[tokio::test]
async fn a_binary_frame_closes_with_1003_also_beyond_the_rate() {
    let node = NodeBuilder::local("solo").set("--client-rate", "1").start().await;
    let (mut client, _) = RawClient::open(&node, "userId=42").await;
    let ping = raw_frame(FIN | TEXT, br#"{"type":"ping"}"#);
    // At once, so that no time passes in which it would be allowed another one.
    let all = [ping.repeat(4), raw_frame(FIN | BINARY, b"\x00")].concat();
    assert!(client.write(&all).await);
    assert_eq!(client.closed().await.code, 1003);
}

#[tokio::test]
async fn one_broken_client_costs_the_other_sessions_nothing() {
    let node = node().await;
    let mut good = Client::as_user(&node, "42", "good").await;
    let mut bad = Client::as_user(&node, "42", "bad").await;
    bad.send_binary(b"\x00").await;
    assert_eq!(bad.closed().await.code, 1003);
    let id = Worker::open(&node).await.event("42", "1").await;
    assert_eq!(good.event().await.id, Some(id));
}

#[tokio::test]
async fn a_burst_beyond_the_rate_gets_an_error_frame() {
    // Burst is twice the rate: 10 pings pass, of 30 sent at once some do not.
    let node = NodeBuilder::local("solo").set("--client-rate", "5").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    for _ in 0..30 {
        client.send(r#"{"type":"ping"}"#).await;
    }
    let mut pongs = 0;
    loop {
        let frame = client.frame("a rate_limited error").await;
        if frame["type"] == "pong" {
            pongs += 1;
            continue;
        }
        assert_eq!(frame["type"], "error", "{frame}");
        assert_eq!(frame["code"], "rate_limited", "{frame}");
        break;
    }
    assert!(pongs >= 10, "only {pongs} pongs before the limit, although the burst is 10");
}

#[tokio::test]
async fn a_client_that_comes_back_finds_its_rate_as_it_left_it() {
    let node = NodeBuilder::local("solo").set("--client-rate", "5").start().await;
    // 80 messages, of which 10 and 5 a second may come.
    let mut limited = false;
    for _ in 0..8 {
        let mut client = Client::as_user(&node, "42", "tab-1").await;
        for _ in 0..10 {
            if !limited {
                client.send(r#"{"type":"ping"}"#).await;
                limited = client.frame("an answer").await["code"] == "rate_limited";
            }
        }
    }
    assert!(limited, "it was never told");
    let mut other = Client::as_user(&node, "42", "tab-2").await;
    other.send(r#"{"type":"ping"}"#).await;
    assert_eq!(other.frame("a pong").await["type"], "pong");
}

#[tokio::test]
async fn whoever_reads_gets_all_answers_to_a_burst_within_its_rate() {
    // All in one write, so that they are there before anything has been answered.
    const BURST: usize = 1000;
    let node = NodeBuilder::local("solo").set("--client-rate", "1000").start().await;
    let (mut client, _) = RawClient::open(&node, "userId=42&clientId=tab-1").await;
    let pings = raw_frame(TEXT | FIN, br#"{"type":"ping"}"#).repeat(BURST);
    assert!(client.write(&pings).await);
    for _ in 0..BURST {
        assert_eq!(client.json("a pong").await["type"], "pong");
    }
}

#[tokio::test]
async fn a_flood_that_goes_on_closes_with_4100() {
    let node = NodeBuilder::local("solo").set("--client-rate", "5").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let flood = async {
        // Two hundred a second is forty times the rate.
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        let mut limited = false;
        loop {
            tokio::select! {
                _ = tick.tick() => client.send(r#"{"type":"ping"}"#).await,
                frame = client.frame("an answer to the flood") => match frame["type"].as_str() {
                    Some("bye") => return (frame, limited),
                    Some("error") => limited |= frame["code"] == "rate_limited",
                    _ => {}
                },
            }
        }
    };
    let (bye, limited) = within(2 * BOUND, "the end of a flood", flood).await;
    assert!(limited, "no rate_limited error came before {bye}");
    assert_eq!((&bye["code"], &bye["reconnect"]), (&4100.into(), &true.into()), "{bye}");
}

#[tokio::test]
async fn a_client_within_the_rate_is_left_alone() {
    let node = NodeBuilder::local("solo").set("--client-rate", "50").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    for _ in 0..90 {
        client.round_trip().await;
    }
}

#[tokio::test]
async fn an_ack_of_each_event_is_within_any_rate() {
    let node = NodeBuilder::local("solo").set("--client-rate", "5").start().await;
    let mut worker = Worker::open(&node).await;
    let (mut client, _) = RawClient::open(&node, "userId=42&clientId=tab-1").await;
    let published = worker.count("42", 1, 50).await;
    for id in &published {
        assert_eq!(client.json("an event").await["id"], **id);
        client.send_text(&format!(r#"{{"type":"ack","id":"{id}"}}"#)).await;
    }
    client.round_trip().await;
    // One more than there are events is a message like any other, whatever it confirms.
    for _ in 0..20 {
        client.send_text(&format!(r#"{{"type":"ack","id":"{}"}}"#, published[49])).await;
    }
    assert_eq!(client.json("an error").await["code"], "rate_limited");
    drop(client);
    let again = Client::as_user(&node, "42", "tab-1").await;
    assert_eq!(again.welcome["replayed"], 0, "{}", again.welcome);
}

#[tokio::test]
async fn what_a_pong_has_confirmed_may_still_be_acked() {
    let node = NodeBuilder::local("solo")
        .with(&[("--client-rate", "5"), ("--ping-interval", "200ms")])
        .start()
        .await;
    let mut worker = Worker::open(&node).await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let published = worker.count("42", 1, 50).await;
    client.events(50).await;
    client.pinged_twice().await;
    for id in &published {
        client.send(&format!(r#"{{"type":"ack","id":"{id}"}}"#)).await;
    }
    client.round_trip().await;
}
