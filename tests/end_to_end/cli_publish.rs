//! `switchboard publish`: one event by flags, many by lines, exit codes, addresses, TLS.

use serde_json::json;

use crate::support::api::{ApiServer, Reply};
use crate::support::client::data;
use crate::support::ports::free_port;
use crate::support::terminal::{at, line, line_at, run};
use crate::support::tls::tls_proxy;
use crate::support::{Client, NodeBuilder};

#[tokio::test]
async fn an_event_by_flags_arrives_byte_for_byte_and_its_answer_is_printed() {
    let node = NodeBuilder::local("node-a").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let data = r#"{ "b":1e400,"a" : [12345678901234567890123] }"#;
    let ran = at(&node, &["publish", "--user", "42", "--event", "progress", "--data", data]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let answer = &ran.json_lines()[0];
    assert_eq!((&answer["type"], &answer["nodes"]), (&json!("ack"), &json!(["node-a"])));
    let event = client.event().await;
    assert_eq!((event.event.as_str(), event.data.as_str()), ("progress", data));
    assert_eq!(answer["id"].as_str(), event.id.as_deref());

    // A number that looks like a flag, and every other field.
    let args = ["publish", "--user=42", "--event=e", "--data", "-5", "--client=tab-1", "--collapse-key=c"];
    assert_eq!(at(&node, &[&args[..], &["--key", "k"]].concat()).await.code, Some(0));
    assert_eq!(client.event().await.data, "-5");
    let keyed = ["publish", "--user=42", "--event=e", "--key", "once"];
    let [first, again] = [at(&node, &keyed).await, at(&node, &keyed).await];
    assert_eq!((first.code, again.code), (Some(0), Some(0)), "{first:?}, then {again:?}");
    let once = client.event().await.id.expect("an id");
    let told = [first, again].map(|ran| ran.json_lines()[0]["id"].clone());
    assert_eq!(told, [&*once, &*once], "it was published once");
    let ran = at(&node, &["publish", "--users", "42, 43", "--event", "e"]).await;
    assert_eq!(ran.json_lines()[0]["ids"].as_array().unwrap().len(), 2);
    let ran = at(&node, &["publish", "--broadcast", "--event", "notice"]).await;
    assert_eq!(ran.json_lines()[0], json!({"type": "ack", "nodes": ["node-a"]}));
    let ran = at(&node, &["publish", "--user=42", "--event=e", "--except-client=tab-1", "--transient"]).await;
    assert_eq!(ran.json_lines()[0], json!({"type": "ack", "nodes": ["node-a"]}));
}

#[tokio::test]
async fn a_refusal_ends_with_1_and_a_command_line_that_is_off_with_2() {
    let node = NodeBuilder::local("node-a").set("--worker-token", "first-token,second-token").start().await;
    let refused = at(&node, &["publish", "--user=42", "--event=e"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("unauthorized: ") && refused.out.is_empty(), "{refused:?}");
    for token in [["--token", "second-token"], ["--worker-token", "first-token,other"]] {
        let ran = at(&node, &[&["publish", "--user=42", "--event=e"], &token[..]].concat()).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    let off = ["publish", "--user", "a b", "--event", "e", "--token", "first-token"];
    let refused = at(&node, &off).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("invalid_user_id: "), "{refused:?}");
    for (args, told) in [
        (&["publish", "--event", "e"][..], "invalid_target"),
        (&["publish", "--user", "42", "--broadcast", "--event", "e"], "invalid_target"),
        (&["publish", "--user", "42"], "--event"),
        (&["publish", "--user", "42", "--event", "e", "--data", "{"], "--data"),
        (&["publish", "--user", "42", "--event", "e", "--colour", "red"], "--colour"),
        (&["publish", "--worker-url", "relay:4001", "--user", "42", "--event", "e"], "--worker-url"),
    ] {
        let ran = at(&node, args).await;
        assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
        assert!(ran.err.contains(told), "{args:?}: {ran:?}");
    }
}

#[tokio::test]
async fn who_cannot_reach_a_node_is_told_where_it_was_looked_for() {
    let port = free_port().to_string();
    for args in [&["publish", "--user=42", "--event=e"][..], &["publish"]] {
        let mut line = line(args);
        line.env.push(("WORKER_SOCKET_PORT".to_owned(), port.clone()));
        let ran = run(&line, r#"{"userId":"42","event":"e"}"#).await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        for told in ["cannot reach", &format!("127.0.0.1:{port}"), "--worker-port", "environment"] {
            assert!(ran.err.contains(told), "{told}: {ran:?}");
        }
        assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
    }
}

#[tokio::test]
async fn whoever_answers_with_something_else_than_a_node_has_published_nothing() {
    for (status, answer) in [
        (200, "<html>a page</html>"),
        (200, r#"{"ok":true}"#),
        (200, r#"{"type":"ack"}"#),
        (201, r#"[{"type":"ack","nodes":[]}]"#),
        (204, ""),
    ] {
        let other = ApiServer::start(move |_| Reply::Status(status, answer.to_owned())).await;
        let one = ["publish", "--user=42", "--event=e", "--worker-url", &other.url];
        let ran = run(&line(&one), "").await;
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{answer}: {ran:?}");
        let address = other.url.trim_start_matches("http://");
        assert!(ran.err.contains(address) && ran.err.contains("something else"), "{answer}: {ran:?}");
    }
}

#[tokio::test]
async fn lines_are_answered_in_order_and_a_bad_one_in_its_place() {
    let node = NodeBuilder::local("node-a").start().await;
    let lines = [
        r#"{"userId":"42","event":"e","data":1}"#,
        "",
        "no json",
        r#"{"ref":"mine","userId":"42","event":"e","data":2}"#,
        r#"{"userId":"4 2","event":"e"}"#,
        r#"{"ref":"off","userId":"42","event":"e","colour":"red"}"#,
        r#" {"userIds":["42","43"],"event":"e"}"#,
        "[]",
        r#"{"broadcast":true,"event":"e"}"#,
        r#"{"ref":null,"userId":"42","event":"e"}"#,
    ];
    let ran = run(&line_at(&node, &["publish"]), &lines.join("\n")).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let answers = ran.json_lines();
    let kinds: Vec<_> = answers
        .iter()
        .map(|answer| answer["code"].as_str().unwrap_or_else(|| answer["type"].as_str().unwrap()))
        .collect();
    let off = "invalid_frame";
    assert_eq!(kinds, ["ack", off, "ack", "invalid_user_id", off, "ack", off, "ack", "ack"]);
    let refs: Vec<_> = answers.iter().map(|answer| answer["ref"].as_str()).collect();
    assert_eq!(refs, [None, None, Some("mine"), None, Some("off"), None, None, None, None]);
    assert!(answers[1]["message"].as_str().unwrap().contains("line 3"), "{}", answers[1]);
    assert!(ran.err.contains("4 of 9"), "{ran:?}");
    let ran =
        run(&line_at(&node, &["publish"]), "{\"userId\":\"42\",\"event\":\"e\"}\n\n \n\nnot JSON\n").await;
    assert!(ran.json_lines()[1]["message"].as_str().unwrap().starts_with("line 5"), "{ran:?}");
    let marked = "\u{feff}{\"userId\":\"42\",\"event\":\"e\"}\n";
    let ran = run(&line_at(&node, &["publish"]), marked).await;
    assert_eq!((ran.code, ran.lines().len()), (Some(0), 1), "a byte order mark is passed over: {ran:?}");
    let ran = run(&line_at(&node, &["publish"]), marked.repeat(2)).await;
    assert_eq!(ran.json_lines()[1]["code"], off, "but at the start alone: {ran:?}");
    let flags = run(&line_at(&node, &["publish", "-", "--user", "42"]), "").await;
    assert_eq!(flags.code, Some(2), "{flags:?}");
}

#[tokio::test]
async fn a_line_that_is_not_utf_8_is_answered_in_its_place_and_the_others_are_published() {
    let node = NodeBuilder::local("node-a").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let line = |data: &[u8]| [br#"{"userId":"42","event":"e","data":"#, data, b"}"].concat();
    let lines =
        [line(b"1"), line(b"\"\xff\""), line(b"2"), b"\xc3\r".to_vec(), line("\"\u{e9}\"".as_bytes())];
    let ran = run(&line_at(&node, &["publish"]), lines.join(&b"\r\n"[..])).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let answers = ran.json_lines();
    let kinds: Vec<_> = answers.iter().map(|answer| answer["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ack", "error", "ack", "error", "ack"], "{ran:?}");
    assert_eq!(answers[1]["code"], "invalid_frame");
    assert!(answers[1]["message"].as_str().unwrap().contains("line 2"), "{}", answers[1]);
    assert!(ran.err.contains("2 of 5"), "{ran:?}");
    assert_eq!(data(&client.events(3).await), ["1", "2", "\"\u{e9}\""]);
}

#[tokio::test]
async fn twenty_thousand_lines_pass_in_order() {
    const COUNT: usize = 20_000;
    let node = NodeBuilder::local("node-a").set("--log-length", "30000").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let lines: String =
        (0..COUNT).map(|n| format!("{{\"userId\":\"42\",\"event\":\"e\",\"data\":{n}}}\n")).collect();
    let publishing = tokio::spawn(async move {
        let ran = run(&line_at(&node, &["publish"]), &lines).await;
        (ran, node)
    });
    for number in 0..COUNT {
        assert_eq!(client.event().await.data, number.to_string());
    }
    let (ran, _node) = publishing.await.unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(ran.lines().len(), COUNT);
    assert!(ran.lines().iter().all(|line| line.starts_with(r#"{"type":"ack","id":"#)), "{}", ran.lines()[0]);
}

#[tokio::test]
async fn a_node_behind_tls_is_reached_and_a_stranger_is_not_trusted() {
    let node = NodeBuilder::local("node-a").start().await;
    let (port, certificate) = tls_proxy(node.worker_url.trim_start_matches("ws://").to_owned()).await;
    let url = |scheme: &str| format!("{scheme}://localhost:{port}");
    let trusting = |args: &[&str]| {
        let mut line = line(args);
        line.env.push(("SSL_CERT_FILE".to_owned(), certificate.path().to_str().unwrap().to_owned()));
        line
    };
    for scheme in ["wss", "https"] {
        let one = ["publish", "--worker-url", &url(scheme), "--user=42", "--event=e"];
        let ran = run(&trusting(&one), "").await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let many = ["publish", "--worker-url", &url(scheme)];
        let ran = run(&trusting(&many), "{\"userId\":\"42\",\"event\":\"e\"}\n").await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    let ran = run(&line(&["publish", "--worker-url", &url("wss"), "--user=42", "--event=e"]), "").await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("--worker-url") && ran.err.contains("certificate"), "{ran:?}");

    // TLS on one side alone, over a WebSocket and over HTTP.
    let no_tls = node.worker_url.replace("ws://", "wss://");
    for (url, hint) in [(url("ws"), "try wss://"), (no_tls, "does not speak TLS: try ws://")] {
        for args in [&["publish"][..], &["publish", "--user=42", "--event=e"]] {
            let args = [args, &["--worker-url", &url]].concat();
            let ran = run(&trusting(&args), "{\"userId\":\"42\",\"event\":\"e\"}\n").await;
            assert_eq!(ran.code, Some(1), "{ran:?}");
            assert!(ran.err.contains(hint), "{ran:?}");
        }
    }
}
