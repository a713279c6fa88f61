//! What commands print, where nobody reads it any more, where its reader stalls, or where it cannot be written.

use std::io::{pipe, read_to_string};

use rustix::io::ioctl_fionread;
use rustix::process::Signal;

use crate::support::ports::free_port;
use crate::support::process::Launch;
use crate::support::terminal::{line_at, run};
use crate::support::{BOUND, Node, NodeBuilder, RawClient, Scrape, eventually, within};

/// A shell's line, in which `"$0"` is the program.
fn shell(node: &Node, script: &str) -> Launch {
    let program = Some("sh".to_owned());
    Launch { program, ..line_at(node, &["-c", script, env!("CARGO_BIN_EXE_switchboard")]) }
}

#[tokio::test]
async fn watching_ends_where_nobody_reads() {
    let node = NodeBuilder::local("solo").start().await;
    let script = r#"("$0" status --watch --json; echo "ended with $?" >&2) | head -n 1"#;
    let ran = run(&shell(&node, script), "").await;
    assert_eq!((ran.lines().len(), ran.err.trim()), (1, "ended with 0"), "{ran:?}");
}

#[tokio::test]
async fn an_exit_status_holds_where_nothing_can_be_said_of_it() {
    let node = NodeBuilder::local("solo").start().await;
    let nobody = format!("ws://127.0.0.1:{}", free_port());
    for (command, code) in [
        ("--client-port=70000".to_owned(), 2),
        ("check --client-port=70000".to_owned(), 2),
        ("check".to_owned(), 0),
        ("tail --user=,".to_owned(), 1),
        (format!("status --worker-url={nobody}"), 1),
        (format!("health --worker-url={nobody}"), 1),
        ("trace --user=42 --for=1s".to_owned(), 0),
    ] {
        let ran = run(&shell(&node, &format!(r#""$0" {command} 2> /dev/full"#)), "").await;
        assert_eq!(ran.code, Some(code), "{command}: {ran:?}");
    }
    // One of another program's lines in `.env` is passed over.
    let check = Launch {
        dotenv: Some("GREETING=hello world\n".to_owned()),
        ..shell(&node, r#""$0" check 2> /dev/full"#)
    };
    assert_eq!(run(&check, "").await.code, Some(0));
}

#[tokio::test]
async fn a_full_disk_is_a_failure() {
    let node = NodeBuilder::local("solo").start().await;
    let commands = ["status", "check", "completions bash", "tail --user 42", "publish --user 42 --event e"];
    for command in commands {
        let ran = run(&shell(&node, &format!(r#""$0" {command} > /dev/full"#)), "").await;
        let told = ran.err.contains("standard output cannot be written to");
        assert!(ran.code == Some(1) && told, "{command}: {ran:?}");
    }
}

#[tokio::test]
async fn a_reader_who_stalls_holds_up_lines_and_costs_no_answer() {
    let builder = NodeBuilder::local("solo").set("--ping-interval", "300ms").set("--pong-timeout", "1s");
    let node = builder.start().await;
    let (reader, writer) = pipe().unwrap();
    let line = r#"{"userId":"42","event":"e"}"#;
    let script = format!(r#"seq 5000 | sed 's/.*/{line}/' | "$0" publish"#);
    let mut publishing = shell(&node, &script).spawn_into("publish", writer);
    eventually(BOUND, "more answers than there is room for", async || {
        let published = Scrape::of(&node).await.get("events_published_total{via=\"worker\"}");
        if published > 1000.0 { Ok(()) } else { Err(format!("{published} events")) }
    })
    .await;
    // A worker who came later, and answers no ping, is closed; and one who came after that.
    for _ in 0..2 {
        let mut silent = RawClient::upgrade_at(node.worker_address(), "").await;
        assert_eq!(silent.closed().await.code, 4200);
    }
    let published = Scrape::of(&node).await.get("events_published_total{via=\"worker\"}");
    assert!(published < 4000.0, "{published} events, and nobody has read an answer");
    let reading = tokio::task::spawn_blocking(move || read_to_string(reader).unwrap());
    let printed = within(2 * BOUND, "the answers", reading).await.unwrap();
    let answers = printed.lines().filter(|line| line.starts_with(r#"{"type":"ack","#)).count();
    let last = printed.lines().last();
    assert_eq!((answers, printed.lines().count()), (5000, 5000), "{last:?}");
    assert_eq!(publishing.exit(BOUND).await.code(), Some(0), "{last:?}");
}

#[tokio::test]
async fn an_interrupt_is_heard_where_a_reader_stalls() {
    let node = NodeBuilder::local("solo").start().await;
    let mut stalled = Vec::new();
    for command in ["tail", "trace"] {
        let (reader, writer) = pipe().unwrap();
        let process = line_at(&node, &[command, "--user", "42"]).spawn_into(command, writer);
        stalled.push((command, process, reader));
    }
    let printed = async |bytes: u64| {
        for (command, _, reader) in &stalled {
            eventually(BOUND, &format!("{bytes} bytes of {command}"), async || {
                let there = ioctl_fionread(reader).unwrap();
                if there >= bytes { Ok(()) } else { Err(format!("{there} bytes")) }
            })
            .await;
        }
    };
    printed(1).await;
    // More than a pipe's 64 KiB from both; each page of it may be left with no room for what is written next.
    let line = r#"{"userId":"42","event":"e"}"#;
    let publish = format!(r#"seq 2000 | sed 's/.*/{line}/' | "$0" publish"#);
    assert_eq!(run(&shell(&node, &publish), "").await.code, Some(0));
    printed(48 << 10).await;
    for (command, mut process, _reader) in stalled {
        process.signal(Signal::INT);
        assert_eq!(process.exit(BOUND).await.code(), Some(0), "{command}");
    }
}
