//! Production: closed unless it is opened by name, and every opening is said aloud.

use crate::support::process::Launch;
use crate::support::tokens::SECRET;
use crate::support::{BOUND, Node, NodeBuilder};

const LOCKED: [(&str, &str); 2] =
    [("--worker-token", "worker-token-1"), ("--client-origin", "https://app.example")];

fn production() -> NodeBuilder {
    NodeBuilder::local("solo").env("NODE_ENV", "production")
}

/// The lines of a start that is refused.
async fn complaints(args: &[&str], env: &[(&str, &str)]) -> Vec<String> {
    let args = [&["--client-port=0", "--worker-port=0"], args].concat();
    let env = [&[("NODE_ENV", "production")], env].concat();
    let output = Launch::of(&args, &env).output(BOUND).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?} {env:?}: {told}");
    told.lines().map(str::to_owned).collect()
}

fn openings(node: &Node) -> Vec<String> {
    let warns = |line: &String| line.contains(r#""level":"WARN""#);
    node.lines().into_iter().filter(warns).collect()
}

#[tokio::test]
async fn a_lock_without_its_key_does_not_start() {
    let rest = ["--worker-token", "worker-token-1", "--client-origin", "https://app.example"];
    let pem = "JWT_PUBLIC_KEY";
    type Pairs<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&str, Pairs, &[&str]); 7] = [
        ("jwt", &[], &["--auth", "JWT_SECRET", "JWT_PUBLIC_KEY", "JWT_JWKS"]),
        (
            "jwt",
            &[("JWT_SECRET", SECRET), ("JWT_JWKS", "https://id.example/keys")],
            &["--auth", "JWT_SECRET"],
        ),
        ("jwt", &[(pem, "/nowhere/key.pem")], &["--jwt-public-key"]),
        ("api", &[], &["--api-server-url", "API_SERVER_URL"]),
        ("api", &[("API_SERVER_URL", "ftp://api.example")], &["--api-server-url"]),
        ("api", &[("API_SERVER_URL", "https://api.example/?tenant=1")], &["--api-server-url"]),
        ("api", &[("API_SERVER_URL", "https://api.example/#tenant")], &["--api-server-url"]),
    ];
    for (mode, env, words) in cases {
        let told = complaints(&[&["--auth", mode], &rest[..]].concat(), env).await;
        assert_eq!(told.len(), 1, "{mode} {env:?}: {told:?}");
        for word in words {
            assert!(told[0].contains(word), "{word} in {told:?}");
        }
    }
    // All at once.
    let told =
        complaints(&["--auth", "api", "--auth-path", "socket", "--trusted-proxies", "10.0.0.0/33"], &[])
            .await;
    for flag in ["--api-server-url", "--auth-path", "--trusted-proxies", "--worker-token", "--client-origin"]
    {
        assert_eq!(
            told.iter().filter(|line| line.contains(&format!("{flag} ("))).count(),
            1,
            "{flag}: {told:?}"
        );
    }
}

#[tokio::test]
async fn a_locked_node_warns_of_nothing() {
    let jwt = production().with(&LOCKED).set("--auth", "jwt").env("JWT_SECRET", SECRET);
    let api =
        production().with(&LOCKED).with(&[("--auth", "api"), ("--api-server-url", "http://127.0.0.1:9")]);
    for builder in [jwt, api] {
        let node = builder.start().await;
        assert_eq!(openings(&node), Vec::<String>::new());
    }
}

#[tokio::test]
async fn every_opening_is_said_aloud() {
    let open = [("--auth", "none"), ("--worker-token", "none"), ("--client-origin", "*")];
    let node = production().with(&open).start().await;
    let told = openings(&node);
    for opening in ["--auth none", "--worker-token none", "--client-origin '*'"] {
        assert_eq!(told.iter().filter(|line| line.contains(opening)).count(), 1, "{opening} in {told:?}");
    }
    // A secret that can be guessed is an opening too.
    let weak = production().with(&LOCKED).set("--auth", "jwt").env("JWT_SECRET", "short");
    let told = openings(&weak.start().await);
    assert!(told.iter().any(|line| line.contains("JWT_SECRET")), "{told:?}");
}

#[tokio::test]
async fn help_says_what_each_opening_means() {
    let output = Launch::of(&["--help"], &[]).output(BOUND).await;
    let help = String::from_utf8(output.stdout).unwrap();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "none: a client is whoever it says it is",
        "none leaves it open",
        "* any",
        "refuses to start unless --auth, --worker-token and --client-origin are set",
    ] {
        assert!(help.contains(words), "{words} in {help}");
    }
}
