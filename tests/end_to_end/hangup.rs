//! SIGHUP, from a terminal that closes: it drains as SIGTERM does, and nothing under `nohup`.

use rustix::process::Signal;

use crate::drain::{check_farewell, users};
use crate::support::tokens::{passed, unix};
use crate::support::{BOUND, Client, NodeBuilder, http};

/// A node by a program that starts it with a hangup heard, or ignored, whatever these tests were started with.
fn started_by(program: &[&str], drain_timeout: &str) -> NodeBuilder {
    let builder = NodeBuilder::local("solo").set("--drain-timeout", drain_timeout).program(program[0]);
    let words = [&program[1..], &[env!("CARGO_BIN_EXE_switchboard")]].concat();
    words.iter().rev().fold(builder, |builder, word| builder.subcommand(word))
}

#[tokio::test]
async fn a_hangup_drains_too_and_cuts_no_drain_short() {
    let hears = ["env", "--default-signal=HUP"];
    for first in [Signal::HUP, Signal::INT] {
        let mut node = started_by(&hears, "4s").start().await;
        let mut clients = users(&node, 20).await;
        node.signal(first);
        node.signal(Signal::HUP);
        passed(unix(2)).await; // who waits for the end may well close the terminal
        node.signal(Signal::HUP);
        check_farewell(&clients.remove(0).closed().await);
        assert_eq!(node.exit(BOUND).await.code(), Some(0), "after {first:?}");
    }

    let mut node = started_by(&hears, "10m").start().await;
    let _clients = users(&node, 20).await;
    node.signal(Signal::HUP);
    http::answers(&node.worker_http("/readyz"), 503, BOUND).await;
    node.signal(Signal::TERM);
    assert_eq!(node.exit(BOUND).await.code(), Some(1), "the second one ends at once");
}

#[tokio::test]
async fn a_hangup_is_not_heard_where_it_was_ignored_at_the_start() {
    let mut node = started_by(&["nohup"], "1s").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    node.signal(Signal::HUP);
    client.round_trip().await;
    assert_eq!(http::get(&node.worker_http("/readyz")).await.status, 200);
    node.signal(Signal::TERM);
    check_farewell(&client.closed().await);
    assert_eq!(node.exit(BOUND).await.code(), Some(0), "that was the first");
}
