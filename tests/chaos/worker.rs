//! A worker: publishes by a socket to any node, and sends again what was not answered.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::ledger::{Fate, To};
use crate::load::{Outgoing, Share};
use crate::support::parse_id;

/// How long a worker waits for a node, or for an answer, before it goes to another one.
const PATIENCE: Duration = Duration::from_secs(3);

/// Sends its share for as long as the run lasts.
pub async fn run(mut share: Share) {
    let mut waiting: Vec<Outgoing> = Vec::new();
    let mut ticks = Share::ticks();
    loop {
        let at = share.rng.usize(..share.desk.addresses.workers.len());
        let url = format!("ws://127.0.0.1:{}/?workerId=chaos", share.desk.addresses.workers[at]);
        if let Ok(Ok((socket, _))) = timeout(PATIENCE, connect_async(url)).await {
            serve(socket, &mut share, &mut waiting, &mut ticks).await;
        }
        for outgoing in &waiting {
            share.desk.again(outgoing.number);
        }
        // Meanwhile events are made all the same: what a worker has to say does not wait for a node.
        ticks.tick().await;
        let due = share.due();
        due.iter().for_each(|outgoing| share.desk.again(outgoing.number));
        waiting.extend(due);
        waiting.retain(|outgoing| outgoing.sent.keyed);
    }
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// Until the connection breaks, or an answer is overdue.
async fn serve(
    mut socket: Socket,
    share: &mut Share,
    waiting: &mut Vec<Outgoing>,
    ticks: &mut tokio::time::Interval,
) {
    let mut in_flight: HashMap<u64, Outgoing> = HashMap::new();
    let mut refused: Vec<Outgoing> = Vec::new();
    let mut quiet = 0;
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    quiet = 0;
                    let answer: Value = serde_json::from_str(&text).expect("an answer in JSON");
                    let number: u64 = answer["ref"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default();
                    let Some(outgoing) = in_flight.remove(&number) else { continue };
                    match answer["type"].as_str() {
                        Some("ack") => share.desk.answered(number, fate(&answer, &outgoing)),
                        _ => {
                            assert_eq!(answer["code"], "unavailable", "{answer}");
                            refused.push(outgoing);
                        }
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
            _ = ticks.tick() => {
                quiet = if in_flight.is_empty() { 0 } else { quiet + 1 };
                if quiet > PATIENCE.as_millis() / 20 {
                    break;
                }
                let mut due = std::mem::take(waiting);
                due.extend(share.due());
                for outgoing in due {
                    // A broken socket shows at the flush.
                    socket.feed(Message::text(frame(&outgoing))).await.ok();
                    in_flight.insert(outgoing.number, outgoing);
                }
                if !matches!(timeout(PATIENCE, socket.flush()).await, Ok(Ok(()))) {
                    break;
                }
                // Not at once: a node without Redis would be asked again and again.
                for outgoing in refused.drain(..).filter(|outgoing| outgoing.sent.keyed) {
                    share.desk.again(outgoing.number);
                    waiting.push(outgoing);
                }
            }
        }
    }
    waiting.extend(in_flight.into_values().chain(refused));
    waiting.sort_by_key(|outgoing| outgoing.number);
}

fn frame(outgoing: &Outgoing) -> String {
    let sent = &outgoing.sent;
    let mut frame = json!({
        "ref": outgoing.number.to_string(), "userId": format!("u{}", sent.user), "event": "e", "data": outgoing.data(),
    });
    match sent.to {
        To::All => {}
        To::Only(client) => frame["clientId"] = json!(format!("c{client}")),
        To::Except(client) => frame["exceptClientId"] = json!(format!("c{client}")),
    }
    if sent.collapse {
        frame["collapseKey"] = json!("state");
    }
    if sent.transient {
        frame["transient"] = json!(true);
    }
    if outgoing.sent.keyed {
        frame["key"] = json!(format!("k{}", outgoing.number));
    }
    frame.to_string()
}

fn fate(answer: &Value, outgoing: &Outgoing) -> Fate {
    match answer["id"].as_str() {
        Some(text) => Fate::Acknowledged(parse_id(text)),
        None => {
            assert!(outgoing.sent.transient, "no id in {answer}");
            Fate::Unknown
        }
    }
}
