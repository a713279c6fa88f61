//! Clients that do not read for half a minute while megabytes come for them: what it costs the node, the others, and
//! themselves.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::support::pair::Single;
use crate::support::{Client, Node, RawClient, Worker, within};

/// So long they do not read; and so long they do before, under the same load, to compare with.
const DEAF: Duration = Duration::from_secs(30);
const BEFORE: Duration = Duration::from_secs(8);
/// What the log keeps of each user.
const LOG_LENGTH: usize = 1000;
/// What the node may grow by, while 55 MiB come for the two: each may have 1 MiB in its outbox, as much on its way into
/// the socket, and a page of 256 KiB; the rest is for the allocator.
const MOST: u64 = 10 << 20;
/// What the median may be worse by, where the machine has become busy meanwhile. Behind the deaf it would be seconds.
const BUSY: Duration = Duration::from_millis(500);
/// Users who have nothing to do with it, each with a few events a second.
const OTHERS: usize = 20;
const EACH: Duration = Duration::from_millis(250);

/// Someone for whom large events come at a steady pace.
struct Listener {
    user: &'static str,
    bytes: usize,
    /// How many come while it is deaf, and how often.
    events: u32,
}

/// 26 MiB: more than socket and node hold, less than the log keeps.
const KEPT: Listener = Listener { user: "kept", bytes: 32 * 1024, events: 840 };
/// 29 MiB: three times as many as the log keeps.
const LOST: Listener = Listener { user: "lost", bytes: 8 * 1024, events: 3750 };

/// What its client has seen, in order: an event's number, or none for a gap.
type Seen = Vec<Option<u64>>;

impl Listener {
    /// Publishes for as long as it should, and as much as it should, however slow the machine is; hands out how many.
    async fn publish(&self, node: &Node, on: watch::Receiver<bool>) -> u64 {
        let mut worker = Worker::open(node).await;
        let mut ticks = interval(DEAF / self.events);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let pad = "x".repeat(self.bytes);
        let mut number = 0;
        while *on.borrow() || number < u64::from(self.events) {
            ticks.tick().await;
            worker.event(self.user, &format!(r#"[{number},"{pad}"]"#)).await;
            number += 1;
        }
        worker.event(self.user, &format!("[{number}]")).await;
        number
    }

    /// Reads to the event that has no padding, but only while `reading`.
    async fn read(&self, node: &Node, mut reading: watch::Receiver<bool>) -> JoinHandle<Seen> {
        let (mut client, _) =
            RawClient::open_narrow(node, &format!("userId={}&clientId=tab", self.user)).await;
        tokio::spawn(async move {
            let mut seen = Vec::new();
            loop {
                reading.wait_for(|reading| *reading).await.expect("an end of the test");
                let frame = client.json("an event or a gap").await;
                match frame["type"].as_str() {
                    Some("event") => seen.push(frame["data"][0].as_u64()),
                    Some("gap") => seen.push(None),
                    _ => panic!("awaiting events and gaps: {frame}"),
                }
                if frame["type"] == "event" && frame["data"].as_array().is_some_and(|data| data.len() == 1) {
                    return seen;
                }
            }
        })
    }
}

/// How long others' events took, each with when it was published.
#[derive(Clone, Default)]
struct Waits(Arc<Mutex<Vec<(Instant, Duration)>>>);

impl Waits {
    /// Starts publishing to one of the others, and reading there.
    async fn start(&self, node: &Node, user: String) -> [JoinHandle<()>; 2] {
        let (mut client, mut worker) = (Client::as_user(node, &user, "tab").await, Worker::open(node).await);
        let (start, waits) = (Instant::now(), self.0.clone());
        let publishing = tokio::spawn(async move {
            let mut ticks = interval(EACH);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let data = json!(start.elapsed().as_micros());
                worker.publish(json!({"userId": user, "event": "e", "data": data})).await;
            }
        });
        let reading = tokio::spawn(async move {
            loop {
                let sent = start + Duration::from_micros(client.event().await.data.parse().expect("a time"));
                waits.lock().expect("waits").push((sent, sent.elapsed()));
            }
        });
        [publishing, reading]
    }

    /// The median and the longest of those published within a time.
    fn between(&self, from: Instant, to: Instant) -> (Duration, Duration) {
        let waits = self.0.lock().expect("waits");
        let within = waits.iter().filter(|(sent, _)| (from..to).contains(sent));
        let mut waits: Vec<Duration> = within.map(|(_, wait)| *wait).collect();
        waits.sort();
        let expected = OTHERS * ((to - from).as_millis() / EACH.as_millis()) as usize;
        assert!(waits.len() > expected / 8, "{} of some {expected} events came", waits.len());
        (waits[waits.len() / 2], waits[waits.len() - 1])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_costs_the_node_little_the_others_nothing_and_itself_no_event_unnoticed() {
    let log_length = LOG_LENGTH.to_string();
    let settings = [("--log-length", log_length.as_str()), ("--pong-timeout", "10m")];
    let stage = Single::with(&settings).await;
    let node = &stage.a;
    let (reading, publishing) = (watch::Sender::new(true), watch::Sender::new(true));
    let (kept, lost) =
        (KEPT.read(node, reading.subscribe()).await, LOST.read(node, reading.subscribe()).await);
    let waits = Waits::default();
    let mut others = Vec::new();
    for other in 0..OTHERS {
        others.extend(waits.start(node, format!("other-{other}")).await);
    }
    let run = async {
        sleep(BEFORE).await;
        let (deaf_from, memory) = (Instant::now(), node.memory());
        reading.send_replace(false);
        let mut most = 0;
        while deaf_from.elapsed() < DEAF {
            most = most.max(node.memory().saturating_sub(memory));
            sleep(Duration::from_millis(100)).await;
        }
        publishing.send_replace(false);
        (deaf_from, Instant::now(), most)
    };
    let publish = [KEPT.publish(node, publishing.subscribe()), LOST.publish(node, publishing.subscribe())];
    let ((deaf_from, deaf_to, most), published) = tokio::join!(run, futures_util::future::join_all(publish));

    assert!(most < MOST, "the node grew by {} KiB", most / 1024);
    let (usual, _) = waits.between(deaf_from - BEFORE, deaf_from);
    let (beside, longest) = waits.between(deaf_from, deaf_to);
    println!("grew by {} KiB; median {usual:?} before, {beside:?} beside, longest {longest:?}", most / 1024);
    assert!(beside < 5 * usual + BUSY, "half waited for more than {beside:?}, not {usual:?}");
    assert!(longest < DEAF / 3, "one waited for {longest:?}");
    others.iter().for_each(JoinHandle::abort);

    reading.send_replace(true);
    let kept = within(4 * DEAF, "what the log has kept", kept).await.expect("a record");
    assert_eq!(kept, (0..=published[0]).map(Some).collect::<Seen>(), "all of it, and no gap");
    let lost = within(4 * DEAF, "what the log has left", lost).await.expect("a record");
    let (mut next, mut told, mut missing) = (0, false, 0);
    for number in lost {
        let Some(number) = number else {
            told = true;
            continue;
        };
        assert!(
            number == next || (told && number > next),
            "{number} came where {next} was due, told: {told}"
        );
        missing += number - next;
        (next, told) = (number + 1, false);
    }
    assert_eq!(next, published[1] + 1, "up to the last one");
    assert!(missing > 0, "{} events of {} bytes cannot all have been kept", published[1], LOST.bytes);
}
