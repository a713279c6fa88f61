//! A back end that publishes with `XADD` on the ingress stream, and adds again, with its key, what Redis did not
//! answer.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline};

use crate::ledger::{Fate, To};
use crate::load::{Outgoing, Share};
use crate::support::parse_id;

/// Sends its share for as long as the run lasts.
pub async fn run(mut share: Share) {
    let url = format!("redis://127.0.0.1:{}", share.desk.addresses.redis);
    let client = redis::Client::open(url).expect("an address of Redis");
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(2)))
        .set_response_timeout(Some(Duration::from_secs(3)));
    let mut connection: Option<MultiplexedConnection> = None;
    let mut waiting: Vec<Outgoing> = Vec::new();
    let mut ticks = Share::ticks();
    loop {
        ticks.tick().await;
        waiting.extend(share.due());
        if connection.is_none() {
            connection = client.get_multiplexed_async_connection_with_config(&config).await.ok();
        }
        let Some(open) = connection.as_mut().filter(|_| !waiting.is_empty()) else { continue };
        match pipeline(&waiting).query_async::<Vec<String>>(open).await {
            Ok(ids) => {
                for (outgoing, id) in waiting.drain(..).zip(ids) {
                    let fate =
                        if outgoing.sent.transient { Fate::Unknown } else { Fate::Added(parse_id(&id)) };
                    share.desk.answered(outgoing.number, fate);
                }
            }
            Err(_) => {
                connection = None;
                waiting.iter().for_each(|outgoing| share.desk.again(outgoing.number));
                waiting.retain(|outgoing| outgoing.sent.keyed);
            }
        }
    }
}

fn pipeline(batch: &[Outgoing]) -> Pipeline {
    let mut pipeline = redis::pipe();
    for outgoing in batch {
        let sent = &outgoing.sent;
        let add = pipeline.cmd("XADD").arg("events").arg("*");
        add.arg("user").arg(format!("u{}", sent.user)).arg("event").arg("e");
        add.arg("data").arg(outgoing.data().to_string());
        match sent.to {
            To::All => {}
            To::Only(client) => _ = add.arg("client").arg(format!("c{client}")),
            To::Except(client) => _ = add.arg("except").arg(format!("c{client}")),
        }
        if sent.collapse {
            add.arg("collapse").arg("state");
        }
        if sent.transient {
            add.arg("transient").arg("1");
        }
        if outgoing.sent.keyed {
            add.arg("key").arg(format!("k{}", outgoing.number));
        }
    }
    pipeline
}
