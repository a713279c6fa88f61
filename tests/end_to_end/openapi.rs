//! `GET /openapi.json`, held against real answers: every path, method and status that it describes.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::Answer;
use crate::support::{BOUND, Client, Node, NodeBuilder, RedisServer, eventually, http};

const TOKEN: &str = "a-long-token";
const ORIGIN: &str = "https://app.example.com";

/// The description, and what of it has been seen.
struct Api {
    document: Value,
    seen: BTreeSet<(String, String, String)>,
}

/// Objects have the properties that are described, and no others.
fn closed(mut schema: Value) -> Value {
    if let Some(object) = schema.as_object_mut() {
        if object.contains_key("properties") && !object.contains_key("additionalProperties") {
            object.insert("additionalProperties".into(), false.into());
        }
        object.values_mut().for_each(|value| *value = closed(value.take()));
    } else if let Some(items) = schema.as_array_mut() {
        items.iter_mut().for_each(|value| *value = closed(value.take()));
    }
    schema
}

impl Api {
    /// The part of the document that a `$ref` names, or the value itself.
    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => self.document.pointer(reference.trim_start_matches('#')).unwrap(),
            None => value,
        }
    }

    /// Checks an answer against what is described for its status, or for any other.
    fn check(&mut self, method: &Method, path: &str, answer: &Answer) {
        let method = method.as_str().to_lowercase();
        let responses = &self.document["paths"][path][&method]["responses"];
        let status = answer.status.to_string();
        let key = if responses[&status].is_null() { "default" } else { &status };
        let response = self.resolved(&responses[key]).clone();
        assert!(!response.is_null(), "{method} {path} does not describe {answer:?}");
        self.seen.insert((path.to_owned(), method, key.to_owned()));
        let kind = answer.header("content-type").split(';').next().unwrap_or_default().to_owned();
        if response["content"].is_null() {
            assert_eq!(answer.body, "", "no body is described for {path} {status}");
            return;
        }
        let schema = &response["content"][&kind]["schema"];
        assert!(!schema.is_null(), "{kind:?} is not described for {path} {status}: {response}");
        let body = if kind == "application/json" { answer.json() } else { json!(answer.body) };
        let mut schema = closed(schema.clone());
        schema["components"] = closed(self.document["components"].clone());
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<_> = validator.iter_errors(&body).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{path} {status}: {errors:?} in {body}");
    }

    /// Everything that is described and was not seen.
    fn unseen(&self) -> Vec<(String, String, String)> {
        let mut unseen = Vec::new();
        for (path, item) in self.document["paths"].as_object().unwrap() {
            for (method, operation) in
                item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters")
            {
                for status in operation["responses"].as_object().unwrap().keys() {
                    let key = (path.clone(), method.clone(), status.clone());
                    if !self.seen.contains(&key) {
                        unseen.push(key);
                    }
                }
            }
        }
        unseen
    }
}

/// A request: method, path as described, path as asked, body and its type.
struct Ask(Method, &'static str, String, Option<(&'static str, String)>);

async fn ask(node: &Node, ask: &Ask, headers: &[(&str, &str)]) -> Answer {
    let Ask(method, _, path, body) = ask;
    let mut headers = headers.to_vec();
    if let Some((kind, _)) = body {
        headers.push(("content-type", kind));
    }
    let body = body.as_ref().map(|(_, body)| body.as_str());
    http::request(method.clone(), &node.worker_http(path), &headers, body).await.unwrap()
}

/// One good request for every operation.
fn good() -> Vec<Ask> {
    let get = |pattern: &'static str| Ask(Method::GET, pattern, pattern.replace("{id}", "a%7C42"), None);
    let json = |body: Value| Some(("application/json", body.to_string()));
    let event =
        json!({"ref": "1", "userId": "a|42", "event": "e", "data": {"x": 1}, "key": "k", "collapseKey": "c"});
    let user = |rest: &str| format!("/users/a%7C42{rest}");
    vec![
        get("/healthz"),
        get("/readyz"),
        get("/nodes"),
        get("/status"),
        get("/metrics"),
        get("/openapi.json"),
        get("/users/{id}"),
        Ask(Method::POST, "/users/online", "/users/online".into(), json(json!({"userIds": ["a|42", "43"]}))),
        Ask(Method::PUT, "/users/{id}/trace", user("/trace"), json(json!({"forMs": 60_000}))),
        Ask(Method::POST, "/publish", "/publish".into(), json(event.clone())),
        Ask(Method::GET, "/users/{id}/trace", user("/trace?after=0"), None),
        Ask(Method::DELETE, "/users/{id}/trace", user("/trace"), None),
        Ask(Method::DELETE, "/users/{id}/sessions/{clientId}", user("/sessions/tab-1"), None),
        Ask(Method::DELETE, "/users/{id}/sessions", user("/sessions"), None),
    ]
}

/// What else there is to an operation.
fn odd() -> Vec<Ask> {
    let publish = |kind, body: String| Ask(Method::POST, "/publish", "/publish".into(), Some((kind, body)));
    let json = "application/json";
    let bad = |method, pattern, path: &str| Ask(method, pattern, path.into(), None);
    let many =
        json!([{"userIds": ["1", "2"], "event": "e"}, {"event": "e"}, {"broadcast": true, "event": "e"}]);
    vec![
        publish(json, many.to_string()),
        publish("application/x-ndjson", "{\"userId\":\"1\",\"event\":\"e\"}\nno json\n".into()),
        publish(json, "{".into()),
        publish(json, json!({"userId": "1", "event": "e", "data": "x".repeat(3000)}).to_string()),
        Ask(Method::POST, "/users/online", "/users/online".into(), Some((json, "{}".into()))),
        bad(Method::GET, "/users/{id}", "/users/a%20b"),
        bad(Method::DELETE, "/users/{id}/sessions", "/users/a%20b/sessions"),
        bad(Method::DELETE, "/users/{id}/sessions/{clientId}", "/users/1/sessions/@"),
        bad(Method::GET, "/users/{id}/trace", "/users/1/trace?after=x"),
        bad(Method::DELETE, "/users/{id}/trace", "/users/a%20b/trace"),
        Ask(Method::PUT, "/users/{id}/trace", "/users/1/trace".into(), Some((json, "7".into()))),
        bad(Method::GET, "/ws", "/ws"),
    ]
}

#[tokio::test]
async fn every_answer_is_as_described_and_everything_described_is_answered() {
    let mut redis = RedisServer::start().await;
    let node = NodeBuilder::redis("node-a", &redis)
        .set("--worker-token", TOKEN)
        .set("--client-origin", ORIGIN)
        .set("--max-event", "2KiB")
        .start()
        .await;
    let bearer = format!("Bearer {TOKEN}");
    let known = [("authorization", bearer.as_str())];
    let _client = Client::open(&node, "userId=a%7C42&clientId=tab-1").await;
    let document = http::get_with(&node.worker_http("/openapi.json"), &known).await.json();
    let mut api = Api { document, seen: BTreeSet::new() };

    for request in good() {
        let mut answer = ask(&node, &request, &known).await;
        assert!((200..300).contains(&answer.status), "{} {}: {answer:?}", request.0, request.2);
        if request.2.ends_with("/trace?after=0") {
            answer = eventually(BOUND, "steps to look at", async || {
                let answer = ask(&node, &request, &known).await;
                if answer.body.contains("published") { Ok(answer) } else { Err(answer.body) }
            })
            .await;
        }
        api.check(&request.0, request.1, &answer);
    }
    for request in odd() {
        let answer = ask(&node, &request, &known).await;
        api.check(&request.0, request.1, &answer);
    }
    let upgraded = http::upgrade(&format!("{}/ws", node.worker_url), &known).await;
    api.check(&Method::GET, "/ws", &upgraded);
    let plain = Ask(Method::GET, "/ws", "/ws".into(), None);
    for request in good().iter().chain([&plain]) {
        let answer = ask(&node, request, &[]).await;
        api.check(&request.0, request.1, &answer);
        let answer = ask(&node, request, &[known[0], ("origin", "https://evil.example")]).await;
        assert_eq!(answer.refused(403), "origin_not_allowed");
        api.check(&request.0, request.1, &answer);
    }

    redis.kill();
    let ready = good().remove(1);
    eventually(BOUND, "a node that has noticed", async || {
        let answer = ask(&node, &ready, &known).await;
        if answer.status == 503 { Ok(()) } else { Err(answer.status.to_string()) }
    })
    .await;
    for request in good() {
        let answer = ask(&node, &request, &known).await;
        api.check(&request.0, request.1, &answer);
    }
    assert_eq!(api.unseen(), [], "described and never seen");
}

#[tokio::test]
async fn a_node_in_memory_answers_as_described_too() {
    let node = NodeBuilder::local("solo").start().await;
    let document = http::get(&node.worker_http("/openapi.json")).await.json();
    let mut api = Api { document, seen: BTreeSet::new() };
    let _client = Client::open(&node, "userId=a%7C42&clientId=tab-1").await;
    for request in good().into_iter().chain(odd()) {
        let answer = ask(&node, &request, &[]).await;
        api.check(&request.0, request.1, &answer);
    }
}

#[tokio::test]
async fn an_event_is_good_by_its_description_where_it_is_good_to_the_node() {
    let node = NodeBuilder::local("solo").start().await;
    let mut schema = http::get(&node.worker_http("/openapi.json")).await.json();
    schema["$ref"] = "#/components/schemas/Event".into();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let left_out = json!({"event": "e", "userId": "42", "userIds": null, "broadcast": null, "clientId": null,
        "exceptClientId": null, "data": null, "collapseKey": null, "key": null, "transient": null, "ref": null});
    let cases = [
        (json!({"event": "e", "userId": "42"}), 200),
        (json!({"event": "e", "userIds": ["42", "43"], "userId": null}), 200),
        (json!({"event": "e", "broadcast": true}), 200),
        (json!({"event": "e", "userId": "42", "broadcast": false}), 200),
        (left_out, 200),
        (json!({"event": "e"}), 400),
        (json!({"event": "e", "userId": null}), 400),
        (json!({"event": "e", "broadcast": false}), 400),
        (json!({"event": "e", "userId": "42", "broadcast": true}), 400),
        (json!({"event": "e", "userId": "42", "userIds": ["43"]}), 400),
        (json!({"event": null, "userId": "42"}), 400),
        (json!({"event": "e", "userId": "42", "clientId": "c", "exceptClientId": "d"}), 200),
        (json!({"event": "e", "userIds": ["42"], "clientId": null}), 200),
        (json!({"event": "e", "userIds": ["42"], "clientId": "c"}), 400),
        (json!({"event": "e", "userIds": ["42"], "exceptClientId": "c"}), 400),
        (json!({"event": "e", "userId": "42", "userIds": ["42"], "clientId": "c"}), 400),
        (json!({"event": "e", "broadcast": true, "exceptClientId": null}), 200),
        (json!({"event": "e", "userId": "42", "broadcast": true, "clientId": "c"}), 400),
        (json!({"event": "e", "broadcast": true, "clientId": "c"}), 400),
        (json!({"event": "e", "broadcast": true, "exceptClientId": "c"}), 400),
        (json!({"event": "e", "userId": "42", "key": " ~{,}"}), 200),
        (json!({"event": "e", "userId": "42", "key": "k".repeat(128)}), 200),
        (json!({"event": "e", "userId": "42", "key": "k".repeat(129)}), 400),
        (json!({"event": "e", "userId": "42", "key": ""}), 400),
        (json!({"event": "e", "userId": "42", "key": "é"}), 400),
        (json!({"event": "e", "userId": "42", "key": "a\tb"}), 400),
    ];
    for (event, status) in cases {
        let json = Some(("application/json", event.to_string()));
        let answer = ask(&node, &Ask(Method::POST, "/publish", "/publish".into(), json), &[]).await;
        assert_eq!(answer.status, status, "{event}: {answer:?}");
        assert_eq!(schema.is_valid(&event), status == 200, "{event}");
    }
}

#[tokio::test]
async fn so_is_what_else_is_asked() {
    let node = NodeBuilder::local("solo").start().await;
    let document = http::get(&node.worker_http("/openapi.json")).await.json();
    let described = |pointer: &str| {
        let mut schema = document.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}")).clone();
        schema["components"] = document["components"].clone();
        jsonschema::validator_for(&schema).unwrap()
    };
    let online = described("/paths/~1users~1online/post/requestBody/content/application~1json/schema");
    for (body, status) in [
        (json!({"userIds": ["42"]}), 200),
        (json!({"userIds": []}), 200),
        (json!({"userIds": ["42"], "more": 1}), 400),
        (json!({"userIds": null}), 400),
        (json!({}), 400),
    ] {
        let answer = http::post(&node.worker_http("/users/online"), &body.to_string()).await;
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        assert_eq!(online.is_valid(&body), status == 200, "{body}");
    }
    let trace = "/paths/~1users~1{id}~1trace";
    let follow = described(&format!("{trace}/put/requestBody/content/application~1json/schema"));
    for (body, status) in [
        (json!({}), 200),
        (json!({"forMs": null}), 200),
        (json!({"forMs": 1000}), 200),
        (json!({"forMs": 0}), 400),
        (json!({"more": 1}), 400),
    ] {
        let body_text = Some(("application/json", body.to_string()));
        let answer = ask(&node, &Ask(Method::PUT, "", "/users/42/trace".into(), body_text), &[]).await;
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        assert_eq!(follow.is_valid(&body), status == 200, "{body}");
    }
    let after = described(&format!("{trace}/get/parameters/0/schema"));
    let (most, too_long) = ("9".repeat(15), "9".repeat(16));
    for (place, status) in [
        ("0", 200),
        ("1-0", 200),
        (&format!("{most}-{most}"), 200),
        (&too_long, 400),
        (&format!("1-{too_long}"), 400),
        ("", 400),
        ("x", 400),
        ("1-", 400),
        ("1-2-3", 400),
    ] {
        let answer = http::get(&node.worker_http(&format!("/users/42/trace?after={place}"))).await;
        assert_eq!(answer.status, status, "{place}: {answer:?}");
        assert_eq!(after.is_valid(&json!(place)), status == 200, "{place}");
    }
}
