//! Guards `scripts/`: what the examples tell a node is what it understands, and the times in them fit its defaults.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::time::Duration;

use serde_json::Value;
use switchboard::settings::Settings;
use switchboard::settings::read::Reader;
use switchboard::settings::table::SETTINGS;

use crate::root;

/// How long a node may take to leave beyond its drain: sockets, the ingress lease, its own lease, its keys, 5 s each.
const LAST_WORDS: Duration = Duration::from_secs(20);

fn read(path: &str) -> String {
    fs::read_to_string(root().join("scripts").join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every manifest, with the file that it is in.
fn manifests() -> Vec<(String, Value)> {
    let mut manifests = Vec::new();
    for file in fs::read_dir(root().join("scripts/kubernetes")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        for manifest in yaml(&format!("kubernetes/{name}")) {
            manifests.push((name.clone(), manifest));
        }
    }
    manifests
}

fn manifest(kind: &str) -> Value {
    let mut of_kind = manifests().into_iter().filter(|(_, manifest)| manifest["kind"] == kind);
    let (_, manifest) = of_kind.next().unwrap_or_else(|| panic!("no {kind}"));
    manifest
}

fn default(flag: &str) -> &'static str {
    SETTINGS.iter().find(|setting| setting.flag == flag).and_then(|setting| setting.default).unwrap()
}

fn time(text: &str) -> Duration {
    humantime::parse_duration(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// What a node makes of an environment, in production as the image has it; every name must be one of its own.
fn understood(environment: &HashMap<String, String>) -> Settings {
    for name in environment.keys() {
        let known = |env: &str| name == env || name.strip_suffix("_FILE") == Some(env);
        assert!(SETTINGS.iter().any(|setting| known(setting.env)), "a node does not know {name}");
    }
    let look_up = |name: &str| match name {
        "NODE_ENV" => Some("production".to_owned()),
        "BIND_ADDR" => Some("0.0.0.0".to_owned()),
        _ => environment.get(name).cloned(),
    };
    Settings::parse(Reader::new(|_| None, look_up, &HashMap::new()))
        .unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}

fn texts(map: &Value) -> HashMap<String, String> {
    let text = |value: &Value| match value.as_str() {
        // From the environment of whoever starts it.
        Some(text) if text.starts_with("${") => "given".to_owned(),
        Some(text) => text.to_owned(),
        None => value.to_string(),
    };
    map.as_object().unwrap().iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

#[test]
fn compose_tells_nodes_what_they_understand() {
    let compose = yaml("compose.yaml").remove(0);
    let mut clients_ports = BTreeSet::new();
    for name in ["relay-a", "relay-b"] {
        let node = &compose["services"][name];
        let settings = understood(&texts(&node["environment"]));
        let grace = time(node["stop_grace_period"].as_str().unwrap());
        assert!(grace >= settings.drain_timeout + LAST_WORDS, "{name}: {grace:?}");
        assert_eq!(node["hostname"], *name, "the default of NODE_ID");
        assert!(
            node["ports"][0].as_str().unwrap().ends_with(&format!(":{}", settings.worker_port)),
            "{node}"
        );
        clients_ports.insert(format!("server {name} {name}:{}", settings.client_port));
    }
    let haproxy = read("haproxy.cfg");
    for server in &clients_ports {
        assert!(haproxy.lines().any(|line| line.trim() == server), "haproxy.cfg: no {server}");
    }
    for service in compose["services"].as_object().unwrap().values() {
        for needed in service["depends_on"].as_array().into_iter().flatten() {
            assert!(compose["services"][needed.as_str().unwrap()].is_object(), "no service {needed}");
        }
    }
    assert!(compose["services"]["redis"]["command"].to_string().contains("noeviction"));
}

#[test]
fn proxies_wait_longer_than_a_ping_takes() {
    let ping = time(default("ping-interval")) + time(default("pong-timeout"));
    for (file, directives) in [
        ("nginx.conf", &["proxy_read_timeout ", "proxy_send_timeout "][..]),
        ("haproxy.cfg", &["timeout tunnel ", "timeout client ", "timeout server "]),
    ] {
        let text = read(file);
        for directive in directives {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(directive));
            let value = line.unwrap_or_else(|| panic!("{file}: no {directive}"));
            assert!(time(value.trim_end_matches(';')) > ping, "{file}: {directive}{value}");
        }
        let port = default("client-port");
        for node in ["relay-a", "relay-b"] {
            assert!(text.contains(&format!("{node}:{port}")), "{file}: {node}");
        }
    }
}

#[test]
fn kubernetes_tells_nodes_what_they_understand() {
    let mut environment = texts(&manifest("ConfigMap")["data"]);
    for setting in SETTINGS.iter().filter(|setting| setting.secret) {
        assert!(!environment.contains_key(setting.env), "{} is no secret in a ConfigMap", setting.env);
    }
    let pod = &manifest("Deployment")["spec"]["template"]["spec"];
    let node = &pod["containers"][0];
    for variable in node["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        let (secret, secrets) = (&variable["valueFrom"]["secretKeyRef"], manifest("Secret"));
        let value = if secret.is_object() {
            assert_eq!(secret["name"], secrets["metadata"]["name"]);
            let given = secrets["stringData"][secret["key"].as_str().unwrap()].as_str();
            given.unwrap_or_else(|| panic!("{secret}"))
        } else {
            variable["value"].as_str().unwrap_or("given")
        };
        // `$(POD_IP)` stands for a variable before it, which is then none of the node's.
        let value = match (value.find("$("), value.find(')')) {
            (Some(from), Some(to)) => {
                let given = environment.remove(&value[from + 2..to]).expect("a variable before it");
                value[..from].to_owned() + &given + &value[to + 1..]
            }
            _ => value.to_owned(),
        };
        environment.insert(name.to_owned(), value);
    }
    assert_eq!(node["envFrom"][0]["configMapRef"]["name"], manifest("ConfigMap")["metadata"]["name"]);
    let settings = understood(&environment);
    let grace = Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap());
    assert!(grace >= settings.drain_timeout + LAST_WORDS, "{grace:?}");
    let ports: Vec<_> =
        node["ports"].as_array().unwrap().iter().map(|port| port["containerPort"].as_u64()).collect();
    assert_eq!(ports, [Some(settings.client_port.into()), Some(settings.worker_port.into())]);
    let worker_url = format!("ws://given:{}", settings.worker_port);
    assert_eq!(settings.worker_url, Some(worker_url));
    assert_eq!(node["readinessProbe"]["httpGet"]["path"], "/readyz");
    assert_eq!(node["livenessProbe"]["httpGet"]["path"], "/healthz");
}

#[test]
fn manifests_fit_one_another() {
    let label = serde_json::json!({"app.kubernetes.io/name": "switchboard"});
    let deployment = manifest("Deployment");
    let template = &deployment["spec"]["template"];
    assert_eq!(template["metadata"]["labels"], label);
    let named = |name: &Value| {
        template["spec"]["containers"][0]["ports"]
            .as_array()
            .unwrap()
            .iter()
            .any(|port| port["name"] == *name)
    };
    let mut kinds = BTreeSet::new();
    for (file, manifest) in manifests() {
        assert_eq!(manifest["metadata"]["labels"], label, "{file}");
        let (kind, spec) = (manifest["kind"].as_str().unwrap(), &manifest["spec"]);
        match kind {
            "Service" => {
                assert_eq!(spec["selector"], label, "{file}");
                let ports = spec["ports"].as_array().unwrap();
                assert!(
                    ports.len() == 1 && named(&ports[0]["targetPort"]),
                    "{file}: one port, apart from the other"
                );
            }
            "PodDisruptionBudget" | "Deployment" => {
                assert_eq!(spec["selector"]["matchLabels"], label, "{file}")
            }
            "NetworkPolicy" => {
                assert_eq!(spec["podSelector"]["matchLabels"], label, "{file}");
                for rule in spec["ingress"].as_array().unwrap() {
                    assert!(named(&rule["ports"][0]["port"]) && rule["from"].is_array(), "{file}: {rule}");
                }
            }
            "HorizontalPodAutoscaler" => {
                assert_eq!(spec["scaleTargetRef"]["name"], deployment["metadata"]["name"], "{file}");
                let metric = spec["metrics"][0]["pods"]["metric"]["name"].as_str().unwrap();
                let page = fs::read_to_string(root().join("src/docs/metrics.md")).unwrap();
                assert!(page.contains(&format!("| `{metric}` | gauge |")), "{file}: no metric {metric}");
            }
            _ => {}
        }
        kinds.insert(kind.to_owned());
    }
    for kind in ["Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy"] {
        assert!(kinds.contains(kind), "no {kind}");
    }
}
