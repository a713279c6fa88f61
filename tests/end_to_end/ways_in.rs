//! Four ways in, one set of checks: worker frame, HTTP, `XADD` and the command line say the same of the same event.

use serde_json::{Value, json};

use crate::support::pair::Single;
use crate::support::terminal::{at, line_at, run};
use crate::support::wait::same;
use crate::support::{BOUND, Client, Worker, eventually, http};

/// One event, as the fields of a worker's frame; `data` apart, because it is JSON text.
type Item = (&'static str, &'static [(&'static str, &'static str)], Option<&'static str>);

/// What each is answered with; `ack` where it is good.
const ITEMS: &[Item] = &[
    ("ack", &[("userId", "42"), ("event", "plain")], Some(r#"{ "b":1, "a":1e400 }"#)),
    ("ack", &[("userId", "42"), ("event", "no-data")], None),
    ("ack", &[("userId", "42"), ("clientId", "tab-1"), ("event", "one-session")], Some("1")),
    ("ack", &[("userId", "42"), ("exceptClientId", "tab-2"), ("event", "but-one")], Some("1")),
    ("ack", &[("userIds", "42,43"), ("event", "several")], Some("1")),
    ("ack", &[("broadcast", "true"), ("event", "everyone")], Some("1")),
    ("ack", &[("userId", "42"), ("transient", "true"), ("event", "now-only")], Some("1")),
    ("ack", &[("userId", "42"), ("collapseKey", "job:7"), ("event", "progress")], Some("40")),
    ("ack", &[("userId", "42"), ("key", "order 7/1"), ("event", "keyed")], Some("1")),
    ("invalid_user_id", &[("userId", "4 2"), ("event", "e")], None),
    ("invalid_user_id", &[("userId", ""), ("event", "e")], None),
    ("invalid_user_id", &[("userIds", "42,4{2"), ("event", "e")], None),
    ("invalid_client_id", &[("userId", "42"), ("clientId", "a@b"), ("event", "e")], None),
    ("invalid_client_id", &[("userId", "42"), ("exceptClientId", "a b"), ("event", "e")], None),
    ("invalid_event", &[("userId", "42"), ("event", "a b")], None),
    ("invalid_event", &[("userId", "42")], None),
    ("invalid_key", &[("userId", "42"), ("key", ""), ("event", "e")], None),
    ("invalid_key", &[("userId", "42"), ("collapseKey", "a b"), ("event", "e")], None),
    ("invalid_target", &[("event", "e")], None),
    ("invalid_target", &[("userId", "42"), ("broadcast", "true"), ("event", "e")], None),
    ("invalid_target", &[("userId", "42"), ("userIds", "42"), ("event", "e")], None),
    ("invalid_target", &[("userIds", "42"), ("clientId", "tab-1"), ("event", "e")], None),
    ("invalid_target", &[("broadcast", "true"), ("exceptClientId", "tab-1"), ("event", "e")], None),
    ("invalid_frame", &[("userId", "42"), ("event", "e")], Some("{")),
    ("too_large", &[("userId", "42"), ("event", "e")], Some("large")),
];

/// The item's data; `large` stands for more than the 1 KiB that the node here allows.
fn data((_, _, data): &Item) -> Option<String> {
    data.map(|data| if data == "large" { json!("x".repeat(1100)).to_string() } else { data.to_owned() })
}

/// The item as a worker's frame, with a key of its own for each way.
fn frame(item: &Item, way: &str) -> String {
    let mut parts: Vec<String> = item
        .1
        .iter()
        .map(|(name, value)| match *name {
            "userIds" => format!("\"userIds\":{}", json!(value.split(',').collect::<Vec<_>>())),
            "broadcast" | "transient" => format!("\"{name}\":{value}"),
            _ => format!("\"{name}\":{}", json!(apart(name, value, way))),
        })
        .collect();
    parts.extend(data(item).map(|data| format!("\"data\":{data}")));
    format!("{{\"ref\":\"r\",{}}}", parts.join(","))
}

/// A good idempotency key differs from way to way: else the second would be answered as published already.
fn apart(name: &str, value: &str, way: &str) -> String {
    if name == "key" && !value.is_empty() { format!("{value} {way}") } else { value.to_owned() }
}

/// The code of an answer of any form; `ack` where there is none.
fn outcome(answer: &Value) -> String {
    let code = answer["code"].as_str().or_else(|| answer["error"]["code"].as_str());
    code.unwrap_or_else(|| answer["type"].as_str().unwrap_or("?")).to_owned()
}

/// The frames that the two tabs get of a good item.
async fn received(tabs: &mut [Client; 2], (_, fields, data): &Item, way: &str) {
    let field = |wanted: &str| fields.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
    let (client, except) = (field("clientId"), field("exceptClientId"));
    for (tab, name) in tabs.iter_mut().zip(["tab-1", "tab-2"]) {
        if client.is_none_or(|client| client == name) && except != Some(name) {
            let event = tab.event().await;
            assert_eq!(Some(event.event.as_str()), field("event"), "{way} to {name}");
            assert_eq!(event.data, data.unwrap_or("null"), "{way} to {name}, byte for byte");
            let logged = field("transient").is_none() && field("broadcast").is_none();
            assert_eq!(event.id.is_some(), logged, "{way} to {name}");
        }
    }
}

async fn stage() -> (Single, [Client; 2]) {
    let stage = Single::with(&[("--max-event", "1KiB")]).await;
    let tabs =
        [Client::as_user(&stage.a, "42", "tab-1").await, Client::as_user(&stage.a, "42", "tab-2").await];
    (stage, tabs)
}

#[tokio::test]
async fn by_worker_frame() {
    let (stage, mut tabs) = stage().await;
    let mut worker = Worker::open(&stage.a).await;
    for item in ITEMS {
        let answer = worker.ask(&frame(item, "frame")).await;
        assert_eq!(outcome(&answer), item.0, "{item:?}: {answer}");
        if item.0 == "ack" {
            received(&mut tabs, item, "a frame").await;
        }
    }
}

#[tokio::test]
async fn by_http_one_by_one_and_all_at_once() {
    let (stage, mut tabs) = stage().await;
    let url = stage.a.worker_http("/publish");
    for item in ITEMS {
        let answer = http::post(&url, &frame(item, "http")).await;
        assert_eq!(outcome(&answer.json()), item.0, "{item:?}: {answer:?}");
        if item.0 == "ack" {
            received(&mut tabs, item, "HTTP").await;
        }
    }
    let all: Vec<String> = ITEMS.iter().map(|item| frame(item, "all")).collect();
    let answers = http::post_as(&url, "application/x-ndjson", &all.join("\n")).await.body;
    let answers: Vec<String> =
        answers.lines().map(|line| outcome(&serde_json::from_str(line).unwrap())).collect();
    assert_eq!(answers, ITEMS.iter().map(|item| item.0).collect::<Vec<_>>());
}

#[tokio::test]
async fn by_xadd() {
    let (mut stage, mut tabs) = stage().await;
    let name = |name: &str| match name {
        "userId" => "user",
        "userIds" => "users",
        "clientId" => "client",
        "exceptClientId" => "except",
        "collapseKey" => "collapse",
        "event" => "event",
        "key" => "key",
        "broadcast" => "broadcast",
        _ => "transient",
    };
    let mut dead = 0;
    for item in ITEMS {
        let mut fields: Vec<(&str, String)> =
            item.1.iter().map(|(field, value)| (name(field), apart(field, value, "xadd"))).collect();
        fields.extend(data(item).map(|data| ("data", data)));
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        stage.db.xadd("events", &fields).await;
        if item.0 == "ack" {
            received(&mut tabs, item, "XADD").await;
            continue;
        }
        dead += 1;
        let entry = eventually(BOUND, &format!("{item:?} in `events:dead`"), async || {
            let entries = stage.db.stream("events:dead").await;
            same(entries.len(), dead)?;
            Ok(entries[dead - 1].clone())
        })
        .await;
        let code = entry.get("reason").split(':').next().unwrap();
        assert_eq!(code, item.0, "{item:?}: {entry:?}");
    }
}

#[tokio::test]
async fn by_command_line() {
    let (stage, mut tabs) = stage().await;
    for item in ITEMS {
        let mut args = vec!["publish".to_owned()];
        for (field, value) in item.1 {
            let flag = match *field {
                "userId" => "--user",
                "userIds" => "--users",
                "clientId" => "--client",
                "exceptClientId" => "--except-client",
                "collapseKey" => "--collapse-key",
                "event" => "--event",
                "key" => "--key",
                switch => {
                    args.push(format!("--{switch}"));
                    continue;
                }
            };
            args.push(format!("{flag}={}", apart(field, value, "flags")));
        }
        args.extend(data(item).map(|data| format!("--data={data}")));
        let ran = at(&stage.a, &args.iter().map(String::as_str).collect::<Vec<_>>()).await;
        if item.0 == "ack" {
            assert_eq!(
                (ran.code, outcome(&ran.json_lines()[0]).as_str()),
                (Some(0), "ack"),
                "{item:?}: {ran:?}"
            );
            received(&mut tabs, item, "flags").await;
        } else {
            assert!(ran.err.contains(&format!("switchboard: {}: ", item.0)), "{item:?}: {ran:?}");
            assert!(matches!(ran.code, Some(1 | 2)) && ran.out.is_empty(), "{item:?}: {ran:?}");
        }
    }
    let lines: Vec<String> = ITEMS.iter().map(|item| frame(item, "lines")).collect();
    let ran = run(&line_at(&stage.a, &["publish"]), &lines.join("\n")).await;
    let answers: Vec<String> = ran.json_lines().iter().map(outcome).collect();
    assert_eq!(answers, ITEMS.iter().map(|item| item.0).collect::<Vec<_>>());
    // A broadcast has no place in a user's order: with many on their way at once it may overtake.
    let good = ITEMS.iter().filter(|item| item.0 == "ack");
    let mut wanted: Vec<_> =
        good.filter_map(|item| item.1.iter().find(|(name, _)| *name == "event")).collect();
    wanted.sort();
    let mut events = tabs[0].events(wanted.len()).await;
    events.sort_by(|a, b| a.event.cmp(&b.event));
    assert_eq!(
        events.iter().map(|event| event.event.as_str()).collect::<Vec<_>>(),
        wanted.iter().map(|(_, value)| *value).collect::<Vec<_>>()
    );
}
