//! `switchboard bench`: what it sends arrives, by every way in, and it says so.

use std::time::{Duration, Instant};

use redis::cmd;
use redis::streams::StreamInfoStreamReply;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::ports::free_port;
use crate::support::scrape::counted;
use crate::support::terminal::{at, line, line_at, run};
use crate::support::wait::same;
use crate::support::{BOUND, NodeBuilder, Pair, Scrape, eventually, within};

/// A short run against two nodes; what it reports.
async fn measured(pair: &Pair, args: &[&str]) -> Value {
    let clients = format!("{},{}", pair.a.client_url, pair.b.client_url);
    let workers = format!("{},{}", pair.a.worker_url, pair.b.worker_url);
    let nodes = ["bench", "--json", "--client-url", &clients, "--worker-url", &workers, "--settle=0s"];
    let ran = run(&line(&[&nodes, args].concat()), "").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.json()
}

#[tokio::test]
async fn every_event_is_seen_once_in_order_by_every_session_whichever_way_it_came() {
    let mut pair = Pair::with(&[("--ingress", "events,events:2")]).await;
    let url = pair.redis.url();
    let pid = std::process::id().to_string();
    let load =
        ["--users=8", "--sessions=2", "--rate=200", "--duration=1s", "--warm-up=500ms", "--processes=2"];
    let xadd = ["--via=xadd", "--redis-url", &url, "--ingress=events,events:2"];
    for via in [&["--via=worker", "--answers"][..], &["--via=http"], &xadd] {
        let report = measured(&pair, &[&load[..], via, &["--watch-pid", &pid]].concat()).await;
        assert_eq!(report["connect"]["sockets"], 16, "{report}");
        for fault in ["lost", "duplicated", "out_of_order", "gaps", "refused", "broken"] {
            assert_eq!(report[fault], 0, "{fault}: {report}");
        }
        // The schedule decides how many, not how fast they went: 1.5 s at 200 a second, in two halves.
        assert_eq!(report["published"], 300, "{report}");
        assert_eq!(report["delivered"], 600, "{report}");
        for latency in ["latency_ms", "answer_ms"] {
            let quantiles = ["p50", "p99", "p999"].map(|quantile| {
                let value = report[latency][quantile].as_f64();
                value.unwrap_or_else(|| panic!("no {quantile} of {latency}: {report}"))
            });
            assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{latency}: {report}");
            assert!(report[latency]["count"].as_u64() > Some(0), "{latency}: {report}");
        }
        assert!(report["watched"][0]["resident_kib"][2].as_u64() > Some(0), "{report}");
    }
    for stream in ["events", "events:2"] {
        let info: StreamInfoStreamReply = pair.db.run(cmd("XINFO").arg("STREAM").arg(stream)).await;
        assert_ne!(info.last_generated_id, "0-0", "nothing came by {stream}");
    }
}

#[tokio::test]
async fn at_a_terminal_it_says_how_fast_how_late_and_what_went_wrong() {
    let node = NodeBuilder::local("node-a").start().await;
    let load = ["bench", "--users=4", "--rate=100", "--duration=500ms", "--warm-up=0s", "--settle=0s"];
    let ran = at(&node, &load).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let row = |name: &str| {
        let row = ran.lines().into_iter().find_map(|line| line.strip_prefix(name));
        row.unwrap_or_else(|| panic!("no {name}: {}", ran.out)).trim().to_owned()
    };
    // Whole numbers and fractions alike; where thousands are set apart they are read as one.
    let numbers = |row: &str| -> Vec<f64> {
        let row = row.replace(',', "");
        row.split([' ', ';']).filter_map(|word| word.parse().ok()).collect()
    };
    let connected = row("connected");
    assert!(connected.starts_with("4 sockets in ") && connected.ends_with(" a second"), "{connected}");
    assert!(numbers(&connected)[2] > 0.0, "{connected}");
    let delivered = row("delivered");
    assert!(delivered.starts_with("50, ") && delivered.ends_with(" a second"), "{delivered}");
    assert!(numbers(&delivered)[1] > 0.0, "{delivered}");
    let latency = row("latency");
    let after = |name: &str| latency.split_once(name).unwrap_or_else(|| panic!("no {name}: {latency}")).1;
    let quantiles = ["p50 ", "p99 ", "p99.9 "].map(|name| numbers(after(name))[0]);
    assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{latency}");
    let faults = row("faults");
    assert!(faults.starts_with("0 lost, 0 duplicated, 0 out of order; "), "{faults}");
}

#[tokio::test]
async fn a_window_keeps_the_load_going_and_sockets_alone_are_held() {
    let pair = Pair::start().await;
    let report =
        measured(&pair, &["--users=20", "--rate=max", "--window=8", "--duration=1s", "--warm-up=0s"]).await;
    assert!(report["published"].as_u64() > Some(8), "it goes on when events arrive: {report}");
    assert_eq!((&report["lost"], &report["delivered"]), (&Value::from(0), &report["published"]), "{report}");
    let rare = ["--users=20", "--rate=0.1", "--duration=100ms", "--warm-up=300ms"];
    let report = measured(&pair, &rare).await;
    assert_eq!(report["delivered"], 1, "it ends though all is seen before measuring begins: {report}");
    let never = ["--users=20", "--rate=1e-300", "--duration=100ms", "--warm-up=0s"];
    let report = measured(&pair, &never).await;
    assert_eq!(report["delivered"], 1, "the second is not due before the end: {report}");
    let report = measured(&pair, &["--users=20", "--rate=0", "--duration=100ms"]).await;
    assert_eq!((&report["connect"]["sockets"], &report["published"]), (&20.into(), &0.into()), "{report}");
}

#[tokio::test]
async fn a_share_with_nothing_to_do_waits_for_the_end_and_for_the_others() {
    let pair = Pair::start().await;
    for (load, published) in [
        (&["--users=4", "--rate=1", "--processes=4", "--duration=1s", "--warm-up=0s"][..], 1..=4),
        (&["--users=4", "--rate=0", "--processes=4", "--duration=0s", "--warm-up=0s"], 0..=0),
        (&["--users=4", "--rate=0.1", "--duration=1s", "--warm-up=0s"], 1..=1),
    ] {
        let start = Instant::now();
        let report = within(2 * BOUND, "the end of a run", measured(&pair, load)).await;
        let count = report["published"].as_u64().unwrap();
        assert!(published.contains(&count) && report["delivered"] == count, "{load:?}: {report}");
        assert!(load.contains(&"--duration=0s") || start.elapsed() >= Duration::from_secs(1), "{load:?}");
    }
}

#[tokio::test]
async fn sockets_of_a_node_that_dies_come_back_to_the_other_and_miss_nothing() {
    let Pair { a, b, mut db, redis: _redis } = Pair::start().await;
    let clients = format!("{},{}", a.client_url, b.client_url);
    // Both of these are of the node that stays.
    let workers = format!("{},{}", b.worker_url, b.worker_url);
    let nodes =
        ["bench", "--json", "--client-url", &clients, "--worker-url", &workers, "--reconnect", "--settle=0s"];
    let pids = format!("{},{}", a.pid(), b.pid());
    let load = ["--users=20", "--rate=100", "--duration=4s", "--warm-up=0s", "--watch-pid", &pids];
    let command = line(&[&nodes[..], &load].concat());
    let running = tokio::spawn(async move { run(&command, "").await });
    eventually(BOUND, "a first event", async || {
        if db.exists("log:{user:bench-0}").await { Ok(()) } else { Err("no log".to_owned()) }
    })
    .await;
    drop(a); // kill -9
    let ran = running.await.unwrap();
    let report = ran.json();
    assert_eq!((&report["broken"], &report["away_ms"]["count"]), (&10.into(), &10.into()), "{report}");
    for fault in ["lost", "duplicated", "out_of_order"] {
        assert_eq!(report[fault], 0, "{fault}: {report}");
    }
    assert_eq!(report["delivered"], 400, "{report}");
    assert_eq!([0, 1].map(|at| &report["watched"][at]["ended"]), [true, false], "{report}");
}

#[tokio::test]
async fn a_token_opens_the_worker_port_by_either_flag() {
    let node = NodeBuilder::local("node-a").set("--worker-token", "long-token").start().await;
    let load = ["bench", "--users=1", "--rate=10", "--duration=100ms", "--warm-up=0s", "--settle=0s"];
    for (token, code) in [("--token=long-token", 0), ("--worker-token=long-token", 0), ("--json", 1)] {
        let ran = at(&node, &[&load[..], &[token]].concat()).await;
        assert_eq!(ran.code, Some(code), "{token:?}: {ran:?}");
    }
}

#[tokio::test]
async fn without_a_url_bind_and_port_say_where_the_node_is() {
    let node = NodeBuilder::local("node-a").set("--bind", "127.0.0.2").start().await;
    let port = |url: &str| url.rsplit_once(':').unwrap().1.to_owned();
    let settings = [
        ("--bind", "BIND_ADDR", "127.0.0.2".to_owned()),
        ("--client-port", "CLIENT_SOCKET_PORT", port(&node.client_url)),
        ("--worker-port", "WORKER_SOCKET_PORT", port(&node.worker_url)),
    ];
    let load = ["bench", "--users=1", "--rate=10", "--duration=100ms", "--warm-up=0s", "--settle=0s"];
    let mut flags = line(&load);
    flags.args.extend(settings.iter().map(|(flag, _, value)| format!("{flag}={value}")));
    let mut environment = line(&load);
    environment.env.extend(settings.iter().map(|(_, name, value)| ((*name).to_owned(), value.clone())));
    // What a node tells of itself, in the environment, is not where a flag says that it is.
    let nobody = || format!("ws://127.0.0.1:{}", free_port());
    let mut both = flags.clone();
    both.env = ["CLIENT_SOCKET_URL", "WORKER_SOCKET_URL"].map(|name| (name.to_owned(), nobody())).to_vec();
    for line in [flags, environment, both] {
        let ran = run(&line, "").await;
        assert_eq!(ran.code, Some(0), "{:?} {:?}: {ran:?}", line.args, line.env);
        assert!(ran.out.contains("1 sockets") && ran.out.contains(" 0 lost"), "{ran:?}");
    }
}

#[tokio::test]
async fn nobody_publishes_on_when_a_run_is_killed() {
    for signal in [Signal::TERM, Signal::KILL] {
        let node = NodeBuilder::local("node-a").start().await;
        let load = ["bench", "--users=4", "--processes=2", "--rate=100", "--duration=1h", "--settle=0s"];
        let mut running = line_at(&node, &load).spawn("bench");
        eventually(BOUND, "events of both processes", async || {
            let (scrape, first) = (Scrape::of(&node).await, "events_published_total{via=\"worker\"}");
            same((scrape.get("workers"), scrape.get("sessions"), scrape.get(first) > 0.0), (2.0, 4.0, true))
        })
        .await;
        running.signal(signal);
        running.exit(BOUND).await;
        // Nothing else would end the other two, and their sockets, for an hour.
        counted(&node, "workers", 0.0).await;
        counted(&node, "sessions", 0.0).await;
    }
}

#[tokio::test]
async fn another_run_is_told_from_this_one_while_it_lasts_and_after_it_was_killed() {
    let node = NodeBuilder::local("node-a").start().await;
    let long = ["bench", "--users=8", "--processes=2", "--rate=200", "--duration=1h", "--settle=0s"];
    let mut other = line_at(&node, &long).spawn("bench");
    eventually(BOUND, "its events", async || {
        same(Scrape::of(&node).await.get("events_published_total{via=\"worker\"}") > 0.0, true)
    })
    .await;
    let load =
        ["bench", "--json", "--users=4", "--rate=200", "--duration=500ms", "--warm-up=0s", "--reconnect"];
    for (via, alone) in [("--via=worker", false), ("--via=http", false), ("--via=worker", true)] {
        if alone {
            other.kill();
        }
        let ran = at(&node, &[&load[..], &[via]].concat()).await;
        let report = ran.json();
        assert_eq!((&report["published"], &report["delivered"]), (&100.into(), &100.into()), "{report}");
        for fault in ["lost", "duplicated", "out_of_order", "gaps"] {
            assert_eq!(report[fault], 0, "{via}, {fault}: {report}");
        }
        // Some of a killed run may still be under way.
        assert!(alone || report["of_other_runs"].as_u64() > Some(0), "{report}");
    }
}

#[tokio::test]
async fn what_is_off_is_said_before_anything_is_loaded() {
    let node = NodeBuilder::local("node-a").start().await;
    let nobody = format!("ws://127.0.0.1:{}", free_port());
    let at_nobody = format!("bench-0 at {}: ", nobody.trim_start_matches("ws://"));
    for (args, code, told) in [
        (&["bench", "--rate", "fast"][..], 2, "--rate"),
        (&["bench", "--worker-url", "ws://127.0.0.1:1,ws://127.0.0.1:2"], 2, "every node"),
        (&["bench", "--via", "xadd"], 2, "--redis-url"),
        (&["bench", "--worker-port", "0"], 2, "--worker-port"),
        (&["bench", "--users", "99999999999"], 2, "--users"),
        (&["bench", "--sessions", "10001"], 2, "10000000 sockets"),
        (&["bench", "--payload", "99999999999"], 2, "--payload"),
        (&["bench", "--duration", "99999999999d"], 2, "--duration"),
        (&["bench", "--client-url", &nobody, "--worker-url", &node.worker_url, "--users=1"], 1, &at_nobody),
        (
            &["bench", "--client-url", &node.client_url, "--worker-url", &nobody, "--users=1"],
            1,
            "worker port",
        ),
        (
            &["bench", "--client-url", &node.client_url, "--watch-pid", "4194305", "--users=1"],
            1,
            "--watch-pid",
        ),
    ] {
        let ran = run(&line(args), "").await;
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert!(ran.err.contains(told), "{args:?}: {ran:?}");
    }
    let help = run(&line(&["bench", "--help"]), "").await;
    for flag in
        ["--users", "--sessions", "--rate", "--payload", "--client-url", "--worker-url", "--bind", "--json"]
    {
        assert!(help.out.contains(flag), "{flag}: {help:?}");
    }
    assert!(!help.out.contains("--session-ttl"), "{help:?}");
}

#[tokio::test]
async fn a_secret_in_a_pipe_reaches_every_process_and_so_do_flags_before_two_dashes() {
    let node = NodeBuilder::local("node-a").set("--worker-token", "a-long-token").start().await;
    let load = ["bench", "--json", "--users=4", "--processes=2", "--rate=40", "--duration=500ms", "--"];
    for via in ["--via=worker", "--via=http"] {
        let mut piped = line_at(&node, &[&load[..1], &[via], &load[1..]].concat());
        piped.env.push(("WORKER_TOKEN_FILE".to_owned(), "/dev/stdin".to_owned()));
        let ran = run(&piped, "a-long-token\n").await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(ran.json()["refused"], 0, "{ran:?}");
    }
}
