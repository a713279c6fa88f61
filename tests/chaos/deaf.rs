//! Those who do not listen: clients that do not read, and a node whose inbox has fallen silent.

use std::time::{Duration, Instant};

use redis::cmd;
use tokio::time::sleep;

use crate::clients::Order;
use crate::crew::Crew;
use crate::ledger::{Fate, Gaps, Sent, To};
use crate::support::{BOUND, http, parse_id};

/// Events to the first deaf user: fewer than the log keeps, 35 MiB together.
const LARGE: usize = 300;
const LARGE_BYTES: usize = 120 * 1024;
/// Events to the second one: more than the log keeps.
const MANY: usize = 900;
/// What the deaf may make a node hold: outboxes and write buffers of two sockets at 1 MiB each, a page of the log
/// each, and what the allocator keeps. Less than the large events. `end_to_end` has a closer look.
const MOST: u64 = 28 << 20;
/// At least so long samples are taken.
const SAMPLED: Duration = Duration::from_secs(2);

/// One session of user 0 and one of user 1 stop reading. The first catches up; to the second a gap is told.
pub async fn clients(crew: &mut Crew) -> Gaps {
    let before: Vec<u64> = (0..crew.stage.size()).map(|at| crew.stage.node(at).memory()).collect();
    for client in crew.clients.iter().filter(|client| client.session.1 == 0 && client.session.0 < 2) {
        client.order(Order::Deaf(crew.scale.deaf));
    }
    let until = Instant::now() + crew.scale.deaf;
    let mut db = crew.stage.redis.db().await;
    for (user, count, size) in [(0, LARGE, LARGE_BYTES), (1, MANY, 200)] {
        for _ in 0..count {
            let number = crew.load.enter(Sent {
                user,
                to: To::All,
                collapse: false,
                transient: false,
                lane: usize::MAX,
                once: true,
                keyed: false,
                fate: Fate::Unknown,
                answered_ms: None,
            });
            let data = format!(r#"{{"n":{number},"pad":"{}"}}"#, "x".repeat(size));
            let name = format!("u{user}");
            let id = db.xadd("events", &[("user", &name), ("event", "large"), ("data", &data)]).await;
            crew.load.answered(number, Fate::Added(parse_id(&id)));
            // Not at once: reading and routing a burst takes memory, whoever it is for, and the allocator gives it back
            // late.
            sleep(crew.scale.deaf / 2 / (LARGE + MANY) as u32).await;
        }
    }
    // What it holds is there in every sample, what only passes through is not. Where sending has taken all the time, on a
    // busy machine, those that read again are no reason to look only once.
    let until = until.max(Instant::now() + SAMPLED);
    let mut held = vec![u64::MAX; before.len()];
    loop {
        for (at, held) in held.iter_mut().enumerate() {
            *held = (*held).min(crew.stage.node(at).memory());
        }
        if Instant::now() >= until {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    let most = held.iter().zip(&before).map(|(held, before)| held.saturating_sub(*before)).max().unwrap_or(0);
    println!("  two clients that did not read cost a node at most {} KiB", most / 1024);
    assert!(most < MOST, "a node grew by {most} bytes");
    crew.stage.healed();
    Gaps::Of(vec![1])
}

/// The reader's place is moved to the end of time: it waits, and nothing comes. The node must not be ready then, and
/// make its inbox anew by itself.
pub async fn inbox(crew: &mut Crew) {
    let at = crew.rng.usize(..crew.stage.size());
    let mut db = crew.stage.redis.db().await;
    let mut place = cmd("XGROUP");
    place.arg("SETID").arg(format!("inbox:{{node:n{}}}", at + 1)).arg("node").arg("99999999999999-0");
    db.run::<String>(&place).await;
    let url = crew.stage.node(at).worker_http("/readyz");
    http::answers(&url, 503, BOUND).await;
    crew.stage.healed();
}
