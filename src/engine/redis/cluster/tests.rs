//! A master that does not answer just when the map is drawn.

use std::sync::atomic::AtomicBool;

use super::super::tests::{fake, options};
use super::*;

/// Far below [`REDRAW`], when it would be found in any case.
const BOUND: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_master_that_does_not_answer_while_the_map_is_drawn_is_looked_for_at_once() {
    let keys = Keys::new("", true);
    let is_mark = {
        let marks: Vec<String> = (0..100).map(|number| format!("GET {}", keys.mark(number))).collect();
        move |command: &str| marks.iter().any(|mark| mark == command)
    };
    let slots: Arc<sync::Mutex<&'static str>> = Arc::default();
    let (has_moved, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let place = {
        let (slots, has_moved, answers) = (slots.clone(), has_moved.clone(), answers.clone());
        fake(move |command| {
            Some(match command {
                "CLUSTER SLOTS" => *lock(&slots),
                "TIME" => "*2\r\n$1\r\n1\r\n$1\r\n0",
                mark if is_mark(mark) && !answers.load(Ordering::Acquire) => "-ERR not now",
                mark if is_mark(mark) => ":1",
                "GET key" if !has_moved.load(Ordering::Acquire) => "-MOVED 1 127.0.0.1:1",
                _ => "+OK",
            })
        })
        .await
    };
    let port = place.addr().to_string().rsplit(':').next().unwrap().parse().unwrap();
    *lock(&slots) = ranges(&[(0, 16_383)], port);
    let cluster = Arc::new(Cluster::new(vec![place], options(1, 0), keys.clone(), Slot(0)));
    let keeping = tokio::spawn({
        let cluster = cluster.clone();
        async move { cluster.keep().await }
    });
    let up = || cluster.map().servers.iter().any(|server| server.is_up());
    timeout(BOUND, async {
        while !up() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();

    // The slot of its mark goes to another, so that it takes a new one, and that it does not tell now.
    let mark = Slot::of(keys.mark(0).as_bytes()).0;
    *lock(&slots) = ranges(&[(0, mark - 1), (mark + 1, 16_383)], port);
    answers.store(false, Ordering::Release);
    let get = redis::pipe().cmd("GET").arg("key").to_owned();
    let (outcomes, _) = cluster.send(&get, false).await;
    let error = outcomes[0].as_ref().unwrap_err();
    assert!(error.to_string().contains("away"), "{error}");
    assert!(!up());
    has_moved.store(true, Ordering::Release);
    answers.store(true, Ordering::Release);
    timeout(BOUND, async {
        while cluster.send(&get, false).await.0[0].is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    keeping.abort();
}

#[tokio::test]
async fn a_master_is_told_of_where_nobody_else_tells_why_it_cannot_be_used() {
    let seed = fake(|_| None).await;
    let cluster = Cluster::new(vec![seed], options(1, 0), Keys::new("", true), Slot(0));
    let server = |port| Arc::new(cluster.server(&("redis".to_owned(), port)).unwrap());
    let (home, one, other) = (server(1), server(2), server(3));
    let servers = vec![home.clone(), one.clone(), other.clone()];
    let mut map = Map { servers, owners: vec![NOBODY; SLOTS], members: Vec::new() };
    let down = RedisError::from((ErrorKind::Server(ServerErrorKind::ClusterDown), "down"));
    let silent = RedisError::from((ErrorKind::Io, "silent"));

    assert!(cluster.is_news(&map, &one, &down), "it may be cut off alone");
    assert_eq!(lock(&one.away).again(), Some(1));
    assert!(cluster.is_news(&map, &one, &down), "it still is");
    assert!(!cluster.is_news(&map, &other, &down) && cluster.is_news(&map, &other, &silent));
    assert!(lock(&one.away).end());
    assert!(cluster.is_news(&map, &other, &down));
    map.owners[0] = 0;
    assert!(!cluster.is_news(&map, &other, &down), "so says the one with the node's own keys");
    assert!(cluster.is_news(&map, &other, &silent) && !cluster.is_news(&map, &home, &silent));
}

/// What `CLUSTER SLOTS` answers where all of these are on one master.
fn ranges(ranges: &[(u16, u16)], port: u16) -> &'static str {
    let lines = ranges
        .iter()
        .map(|(first, last)| format!("*3\r\n:{first}\r\n:{last}\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}"));
    let lines: Vec<_> = lines.collect();
    Box::leak(format!("*{}\r\n{}", lines.len(), lines.join("\r\n")).into_boxed_str())
}
