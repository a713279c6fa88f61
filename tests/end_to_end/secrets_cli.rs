//! No secret on the command line's output, wherever it came from and whatever goes wrong.

use serde_json::json;

use crate::support::ports::free_port;
use crate::support::process::Launch;
use crate::support::terminal::{Ran, line, line_at, run};
use crate::support::tokens::{Issuer, unix};
use crate::support::{BOUND, NodeBuilder, RedisServer, http};

const MARK: &str = "s3cret";
const WORKER_TOKEN: &str = "s3cret-worker-token";
const JWT_SECRET: &str = "s3cret-0123456789abcdef0123456789";

fn assert_hidden(ran: &Ran, what: &str) {
    for text in [&ran.out, &ran.err] {
        assert!(!text.contains(MARK), "{what}: {ran:?}");
    }
}

#[tokio::test]
async fn commands_that_ask_a_node_show_no_token_and_quote_no_payload() {
    let node = NodeBuilder::local("solo")
        .set("--auth", "jwt")
        .env("WORKER_TOKEN", WORKER_TOKEN)
        .env("JWT_SECRET", JWT_SECRET)
        .start()
        .await;
    let bad = Issuer::Secret("another".to_owned()).token(json!({"sub": "42", "exp": unix(60)}));
    let nowhere = format!("ws://127.0.0.1:{}", free_port());
    let payloads = "{\"userId\":\"42\",\"event\":\"e\",\"data\":\"s3cret-payload\"}\nno JSON s3cret-payload\n\
                    {\"userId\":\"s3cret user\",\"event\":\"e\"}\n";
    let commands: [(&[&str], &str); 6] = [
        (&["publish", "--user=42", "--event=e", "--data=\"s3cret-payload\""], ""),
        (&["publish", "--user=42", "--event=e", "--data=s3cret-payload"], ""),
        (&["publish"], payloads),
        (&["status"], ""),
        (&["trace", "--user=42", "--for=1s"], ""),
        (&["health"], ""),
    ];
    for (args, input) in commands {
        for token in [WORKER_TOKEN, "s3cret-guess", "s3cret\u{7f}guess"] {
            for there in [true, false] {
                let mut line = if there { line_at(&node, args) } else { line(args) };
                if !there {
                    line.args.push(format!("--worker-url={nowhere}"));
                }
                line.env.push(("WORKER_TOKEN".to_owned(), token.to_owned()));
                let ran = run(&line, input).await;
                assert_hidden(&ran, &format!("{args:?}"));
                let good = there && token == WORKER_TOKEN;
                let fails = !good && args != ["health"] || args.contains(&"--data=s3cret-payload");
                assert!(!fails || ran.code != Some(0), "{args:?} {there}: {ran:?}");
            }
        }
    }
    for url in [&node.client_url, &nowhere] {
        let url = format!("--client-url={url}");
        let ran = run(&line(&["tail", "--user=42", "--token", &bad, &url]), "").await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let signature = bad.rsplit('.').next().unwrap();
        assert!(!ran.err.contains(signature) && !ran.out.contains(signature), "{ran:?}");
    }
}

#[tokio::test]
async fn no_command_takes_an_address_with_a_secret_in_it() {
    let commands: [(&[&str], &str, &str); 6] = [
        (&["publish", "--user=42", "--event=e"], "--worker-url", "WORKER_SOCKET_URL"),
        (&["status"], "--worker-url", "WORKER_SOCKET_URL"),
        (&["trace", "--user=42"], "--worker-url", "WORKER_SOCKET_URL"),
        (&["tail", "--user=42"], "--client-url", "CLIENT_SOCKET_URL"),
        (&["bench", "--users=1"], "--client-url", "CLIENT_SOCKET_URL"),
        (&["health"], "--worker-url", ""),
    ];
    for (args, flag, name) in commands {
        for more in ["/?token=s3cret", "?workerId=api&token=s3cret", "@s3cret/"] {
            let url = match more.strip_prefix('@') {
                Some(password) => format!("ws://me:{password}@127.0.0.1:1"),
                None => format!("ws://127.0.0.1:1{more}"),
            };
            let by_flag = line(&[args, &[flag, &url]].concat());
            let mut by_name = line(args);
            by_name.env.push((name.to_owned(), url));
            for line in [Some(by_flag), Some(by_name).filter(|_| !name.is_empty())].into_iter().flatten() {
                let ran = run(&line, "").await;
                assert_eq!(ran.code, Some(2), "{:?} {:?}: {ran:?}", line.args, line.env);
                assert!(ran.err.contains(flag) && ran.err.contains("--worker-token"), "{ran:?}");
                assert_hidden(&ran, flag);
            }
        }
    }
}

#[tokio::test]
async fn a_worker_token_that_cannot_be_had_is_told_before_a_node_is_asked() {
    let commands: [&[&str]; 4] = [
        &["publish", "--user=42", "--event=e"],
        &["status"],
        &["trace", "--user=42"],
        &["bench", "--users=1", "--client-url=ws://127.0.0.1:1"],
    ];
    for args in commands {
        let at = line(&[args, &["--worker-url=ws://127.0.0.1:1"]].concat());
        let mut by_file = at.clone();
        by_file.env.push(("WORKER_TOKEN_FILE".to_owned(), "/nowhere".to_owned()));
        let by_line = Launch { dotenv: Some("WORKER_TOKEN='s3cret' more\n".to_owned()), ..at.clone() };
        for (line, told) in [(by_file, "WORKER_TOKEN_FILE \"/nowhere\""), (by_line, ".env, line 1:")] {
            let ran = run(&line, "").await;
            assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
            assert!(ran.err.contains(told) && ran.err.lines().count() == 1, "{args:?}: {ran:?}");
            assert_hidden(&ran, told);
        }
        // Of what is not used, nothing matters.
        let mut other = Launch { dotenv: Some("JWT_SECRET='s3cret' more\n".to_owned()), ..at };
        other.env.push(("REDIS_URL_FILE".to_owned(), "/nowhere".to_owned()));
        let ran = run(&other, "").await;
        assert_eq!(ran.code, Some(1), "nobody is there; {args:?}: {ran:?}");
    }
}

#[tokio::test]
async fn check_masks_what_is_good_too() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{WORKER_TOKEN}\n")).unwrap();
    let urls = [
        "redis://relay:s3cret@127.0.0.1:1",
        "rediss://:s3cret@redis.internal",
        "unix:///run/redis.sock?user=relay&pass=s3cret",
        "redis+sentinel://relay:s3cret@h1:26379,h2:26379/mymaster?sentinel_user=x&sentinel_password=s3cret",
        "redis+cluster://relay:s3cret@h1:7000,h2:7001",
    ];
    for url in urls {
        for form in [&["check"][..], &["check", "--json"]] {
            let mut line = line(&[form, &["--auth=jwt"]].concat());
            for (name, value) in [
                ("REDIS_URL", url),
                ("WORKER_TOKEN_FILE", file.path().to_str().unwrap()),
                ("JWT_SECRET", JWT_SECRET),
            ] {
                line.env.push((name.to_owned(), value.to_owned()));
            }
            let ran = run(&line, "").await;
            assert_eq!(ran.code, Some(0), "{ran:?}");
            assert_hidden(&ran, url);
            assert!(ran.out.contains("WORKER_TOKEN") && ran.out.contains("(not shown)"), "{ran:?}");
        }
    }
}

#[tokio::test]
async fn a_password_that_redis_refuses_is_not_told() {
    let redis = RedisServer::start().await;
    let mut db = redis.db().await;
    let acl = ["SETUSER", "relay", "on", ">another", "~*", "&*", "+@all"];
    let _: () = db.run(redis::cmd("ACL").arg(&acl)).await;
    let url = redis.url().replacen("redis://", "redis://relay:s3cret-redis@", 1);
    let mut node = NodeBuilder::bare("solo")
        .with(&[("--mode", "redis"), ("--log-level", "trace")])
        .env("REDIS_URL", &url)
        .start_listening()
        .await;
    node.log_line(BOUND, "that Redis refuses it", |line| line.contains(r#""level":"WARN""#)).await;
    let frame = r#"{"userId":"42","event":"e","data":"s3cret-payload"}"#;
    let answer = http::post(&node.worker_http("/publish"), frame).await;
    assert_eq!(answer.refused(503), "unavailable");
    assert!(!answer.body.contains(MARK), "{answer:?}");
    for line in node.whole_log().await {
        assert!(!line.contains(MARK), "{line}");
    }
}
