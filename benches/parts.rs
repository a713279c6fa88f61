//! What the pure parts cost: reading and building frames, the registry, the router, packing a script's arguments.
//!
//! `cargo bench` shows it; nothing passes or fails by a time. Whole nodes are measured by `switchboard bench`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use switchboard::engine::memory::{self, MemoryEngine};
use switchboard::engine::redis::doors::packed;
use switchboard::engine::{Event, Hint, Node};
use switchboard::handle::{Handle, Outgoing};
use switchboard::id::{EventId, Logged};
use switchboard::metrics::Metrics;
use switchboard::protocol::client::{self, Incoming};
use switchboard::protocol::publish::{Data, Request, answer};
use switchboard::registry::Registry;
use switchboard::router::{Router, WAITING};
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// An event's data: 200 bytes of JSON.
fn data() -> String {
    format!(r#"{{"percent":40,"note":"{}"}}"#, "x".repeat(176))
}

fn id(ms: u64) -> EventId {
    EventId { ms, seq: 0 }
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frames");
    let frame: Utf8Bytes =
        format!(r#"{{"ref":"7","userId":"42","event":"progress","data":{}}}"#, data()).into();
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("read a worker's frame", |b| b.iter(|| Request::parse(black_box(&frame), 1 << 20)));
    group.bench_function("read a client's frame", |b| {
        b.iter(|| Incoming::parse(black_box(r#"{"type":"ack","id":"1732360000000-7"}"#)).is_ok());
    });
    let text = data();
    group.bench_function("build an event", |b| {
        b.iter(|| client::event(Some(id(1_732_360_000_000)), black_box("progress"), black_box(&text)));
    });
    let receipt = switchboard::protocol::publish::Receipt {
        ids: vec![id(1_732_360_000_000)],
        nodes: vec!["relay-b".parse().expect("a node id")],
        many: false,
    };
    let outcome = Ok(receipt);
    group.bench_function("build an answer", |b| b.iter(|| answer(Some("7"), black_box(&outcome))));
    group.finish();
}

/// A session that takes hints.
fn session(user: usize, client: usize) -> Arc<Handle> {
    let user = format!("user-{user}").parse().expect("a user id");
    let handle = Handle::new(user, format!("tab-{client}").parse().expect("a client id"));
    assert!(handle.caught_up(EventId::ZERO));
    Arc::new(handle)
}

fn registry(c: &mut Criterion) {
    let mut group = c.benchmark_group("registry");
    for users in [1, 1_000, 100_000] {
        let registry = Registry::default();
        let sessions: Vec<_> = (0..users).map(|user| session(user, 0)).collect();
        for session in &sessions {
            registry.insert(session.clone());
        }
        let outgoing = Outgoing { logged: None, frame: Some("a frame".into()) };
        let mut at = 0;
        group.bench_function(format!("push and take, {users} users"), |b| {
            b.iter(|| {
                at = (at + 1) % users;
                registry.each_of(sessions[at].user.as_str(), |session| session.push(&outgoing, 256));
                sessions[at].take()
            });
        });
        group.bench_function(format!("in and out, {users} users"), |b| {
            b.iter_batched(
                || session(users, 0),
                |session| {
                    registry.insert(session.clone());
                    registry.remove(&session, || ())
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn router(c: &mut Criterion) {
    let node_id: switchboard::id::NodeId = "relay-a".parse().expect("a node id");
    let engine = MemoryEngine::new(memory::Config {
        node: node_id.clone(),
        client_url: String::new(),
        worker_url: String::new(),
        log_ttl: Duration::from_secs(600),
        log_length: 256,
        max_sessions_per_user: 32,
    });
    let metrics = Arc::new(Metrics::new("relay-a", &[]).expect("metrics"));
    let router = Router::new(node_id, Arc::new(engine), metrics, 256, WAITING);
    router.lease().claimed(tokio::time::Instant::now(), Duration::from_secs(24 * 60 * 60));
    let text = data();
    let mut group = c.benchmark_group("router");
    for count in [1, 32] {
        let sessions: Vec<_> = (0..count).map(|client| session(count, client)).collect();
        for session in &sessions {
            router.registry().insert(session.clone());
        }
        let user = sessions[0].user.to_string();
        let mut ms = 1;
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("hint to {count} sessions"), |b| {
            b.iter(|| {
                ms += 1;
                router.hint(Hint {
                    user: &user,
                    logged: Some(Logged { id: id(ms), prev: id(ms - 1) }),
                    client: None,
                    except: None,
                    event: "progress",
                    data: &text,
                });
                let taken: usize = sessions.iter().map(|session| session.take().len()).sum();
                assert_eq!(taken, count, "a hint that is dropped costs less");
            });
        });
    }
    group.finish();
}

fn packing(c: &mut Criterion) {
    let event = |user: usize| Event {
        user: format!("user-{user}").parse().expect("a user id"),
        client: None,
        except: None,
        event: "progress".parse().expect("an event name"),
        data: Data::from_json_text(data()),
        collapse: None,
        key: None,
        transient: false,
    };
    let node = "a".parse().expect("a node id");
    let mut group = c.benchmark_group("packing");
    for count in [1, 64] {
        let events: Vec<_> = (0..count).map(event).collect();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("publish.lua, {count} events"), |b| {
            b.iter(|| packed(&node, &events));
        });
    }
    group.finish();
}

criterion_group!(parts, frames, registry, router, packing);
criterion_main!(parts);
