//! Seeded mutations of good handshakes and frames over raw sockets, on both ports, beside a healthy pair.
//!
//! The seed is printed; `SWITCHBOARD_SEED=<seed>` makes the same bytes again.

#[path = "../parsers/mutate.rs"]
mod mutate;

use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::support::pair::Single;
use crate::support::raw::{CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, frame, handshake};
use crate::support::{BOUND, Beside, RawClient, eventually, http};

/// How long it goes on: some thousand connections.
const TIME: Duration = Duration::from_secs(12);
/// Connections at once.
const AT_ONCE: usize = 16;
/// How long a connection waits for what the node may have to say: usually nothing, half the time an answer.
const LISTEN: Duration = Duration::from_millis(20);

/// What a good client, worker or HTTP caller sends; whom it is for is another user than the healthy one.
fn client_streams() -> Vec<Vec<u8>> {
    let text = |text: &str| frame(FIN | TEXT, text.as_bytes());
    let ping = text(r#"{"type":"ping"}"#);
    let query = handshake("userId=m-1&clientId=tab-1&since=1732360000000-0", &["Origin: https://a.example"])
        .into_bytes();
    let hello = text(r#"{"userId":"m-2","clientId":"tab-2","since":"0"}"#);
    let pieces =
        [frame(TEXT, br#"{"type""#), frame(FIN | PING, b"x"), frame(FIN | CONTINUATION, br#":"ping"}"#)]
            .concat();
    let message = text(r#"{"type":"message","event":"cancel","data":{"job":[1,2,"\u00e9"]}}"#);
    let ack = text(r#"{"type":"ack","id":"1732360000001-0"}"#);
    vec![
        [&query[..], &ping, &ack, &message].concat(),
        [handshake("", &[]).as_bytes(), &hello, &ping, &pieces].concat(),
        [&query[..], &pieces, &frame(FIN | PONG, b""), &frame(FIN | CLOSE, b"\x03\xe8bye")].concat(),
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /readyz HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
    ]
}

fn worker_streams() -> Vec<Vec<u8>> {
    let text = |text: &str| frame(FIN | TEXT, text.as_bytes());
    let one =
        text(r#"{"ref":"7","userId":"m-1","event":"progress","data":{"percent":40},"collapseKey":"k"}"#);
    let many = text(r#"{"userIds":["m-1","m-2"],"event":"e","transient":true}"#);
    let body = r#"[{"userId":"m-1","event":"e","key":"once"},{"userId":"m-2","event":"e","data":[1e400]}]"#;
    let head = format!("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    let chunked = "POST /users/online HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                   15\r\n{\"userIds\":[\"m-1\",\"2\"]\r\n1\r\n}\r\n0\r\n\r\n";
    vec![
        [handshake("workerId=w", &["Authorization: Bearer token"]).as_bytes(), &one, &many].concat(),
        [handshake("", &[]).as_bytes(), &one, &frame(FIN | PING, b"x"), &frame(FIN | CLOSE, b"")].concat(),
        [head.as_bytes(), body.as_bytes(), b"GET /users/m-1 HTTP/1.1\r\nHost: a\r\n\r\n"].concat(),
        chunked.as_bytes().to_vec(),
        b"GET /users/m%2D1 HTTP/1.1\r\nHost: a\r\n\r\nDELETE /users/m-1/sessions/tab-1 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
    ]
}

/// Sends bytes in two parts, listens for a moment, and is gone.
async fn attack(address: &str, bytes: Vec<u8>, cut: usize) {
    let mut bad = RawClient::connect(address).await;
    bad.write(&bytes[..cut]).await;
    tokio::task::yield_now().await;
    bad.write(&bytes[cut..]).await;
    tokio::time::timeout(LISTEN, bad.head("whatever it is")).await.ok();
}

#[tokio::test]
async fn mutated_peers_kill_nothing_leave_nothing_and_hold_nobody_up() {
    let mut random = Rng::with_seed(mutate::seed());
    let mut single = Single::with(&[("--hello-timeout", "1s")]).await;
    let mut beside = Beside::open(&single.a).await;
    let ports = [
        (single.a.client_address().to_owned(), client_streams()),
        (single.a.worker_address().to_owned(), worker_streams()),
    ];
    let (start, mut connections) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        let attacks = (0..AT_ONCE).map(|at| {
            let (address, streams) = &ports[at % 2];
            let mut bytes = random.choice(streams).unwrap().clone();
            let other = random.choice(streams).unwrap();
            // Most handshakes stay whole, so that frames are reached.
            let head = bytes.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |end| end + 4);
            let mut rest =
                if random.u8(..4) > 0 { bytes.split_off(head) } else { std::mem::take(&mut bytes) };
            mutate::mutate(&mut random, &mut rest, other);
            bytes.extend(rest);
            let cut = random.usize(..=bytes.len());
            attack(address, bytes, cut)
        });
        futures_util::future::join_all(attacks.collect::<Vec<_>>()).await;
        connections += AT_ONCE;
        beside.served().await;
    }
    println!("{connections} connections");
    assert!(single.a.try_exit().is_none(), "the node is gone");
    let panics: Vec<String> = single.a.lines().into_iter().filter(|line| line.contains("panicked")).collect();
    assert!(panics.is_empty(), "{panics:#?}");
    let healthy = ["user:healthy"];
    eventually(BOUND, "the healthy user's key alone", async || {
        let keys = single.db.keys().await;
        let users: Vec<_> = keys.iter().filter(|key| key.starts_with("user:")).collect();
        if users == healthy { Ok(()) } else { Err(format!("{users:?}")) }
    })
    .await;
    eventually(BOUND, "one session on the node", async || {
        let nodes = http::try_get(&single.a.worker_http("/nodes")).await?.json();
        if nodes["nodes"][0]["sessions"] == 1 { Ok(()) } else { Err(nodes.to_string()) }
    })
    .await;
    beside.served().await;
}
