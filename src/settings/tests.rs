//! What was given, in every way, and what came of it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use super::read::Reader;
use super::table::SETTINGS;
use super::{LogFormat, Settings};
use crate::auth::Config;

fn parse(flags: &[(&str, &str)], env: &[(&str, &str)], dot_env: &[(&str, &str)]) -> Result<Settings, String> {
    Settings::parse(Reader::of_tests(flags, env, dot_env))
        .map_err(|mistakes| mistakes.into_iter().map(|mistake| mistake.told).collect::<Vec<_>>().join("\n"))
}

#[test]
fn nothing_given_is_local_mode_in_development() {
    let settings = parse(&[], &[], &[]).unwrap();
    assert!(settings.redis.is_none() && settings.development);
    assert_eq!((settings.client_port, settings.worker_port), (4000, 4001));
    assert_eq!(settings.bind.to_string(), "127.0.0.1");
    assert_eq!(settings.log_ttl, Duration::from_secs(600));
    assert_eq!((settings.max_event, settings.limits.max_message), (1 << 20, 64 << 10));
    assert_eq!(settings.log_format, LogFormat::Text);
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let port = |flags: &[(&str, &str)], env: &[(&str, &str)], file: &[(&str, &str)]| {
        parse(flags, env, file).unwrap().client_port
    };
    let name = "CLIENT_SOCKET_PORT";
    assert_eq!(port(&[("client-port", "1")], &[(name, "2")], &[(name, "3")]), 1);
    assert_eq!(port(&[], &[(name, "2")], &[(name, "3")]), 2);
    assert_eq!(port(&[], &[(name, "")], &[(name, "3")]), 3);
}

#[test]
fn redis_is_used_where_its_url_is_set() {
    let redis = |env: &[(&str, &str)]| parse(&[], env, &[]).unwrap().redis;
    assert!(redis(&[("REDIS_URL", "redis://h:1")]).is_some());
    assert!(redis(&[("REDIS_URL", "redis://h:1"), ("SWITCHBOARD_MODE", "local")]).is_none());
    assert_eq!(redis(&[("SWITCHBOARD_MODE", "redis"), ("REDIS_DB", "3")]).unwrap().address.db, Some(3));
}

#[test]
fn all_mistakes_come_at_once_each_with_flag_value_and_what_is_allowed() {
    let told = parse(
        &[("client-port", "70000"), ("node-ttl", "10"), ("max-event", "big"), ("auth", "magic")],
        &[
            ("NODE_ENV", "staging"),
            ("LOG_LEVEL", "loud"),
            ("REDIS_URL", "http://u:geheim@x"),
            ("WORKER_TOKEN", "geheim,"),
        ],
        &[("BIND_ADDR", "here")],
    )
    .unwrap_err();
    let lines: Vec<_> = told.lines().collect();
    for (flag, value) in [
        ("--client-port", "\"70000\""),
        ("--node-ttl", "\"10\""),
        ("--max-event", "\"big\""),
        ("--auth", "\"magic\""),
        ("--env", "\"staging\""),
        ("--log-level", "\"loud\""),
        ("--redis-url", "\"http://***@x\""),
        ("--worker-token", "(not shown)"),
        ("--bind", "\"here\""),
    ] {
        let line =
            lines.iter().find(|line| line.starts_with(flag)).unwrap_or_else(|| panic!("{flag}: {told}"));
        assert!(line.contains(value) && line.contains("must be"), "{line}");
    }
    assert_eq!(lines.len(), 9, "{told}");
    assert!(!told.contains("geheim"));
}

#[test]
fn an_address_of_redis_is_refused_once_and_nothing_else_hides_it() {
    let told = |flags: &[(&str, &str)]| parse(flags, &[], &[]).unwrap_err();
    for (url, why) in [
        ("redis://h:x", "redis:// or rediss://"),
        ("rediss://h:99999", "redis:// or rediss://"),
        ("valkey://h", "redis:// or rediss://"),
        ("unix://", "redis:// or rediss://"),
        ("redis://h/65536", "a database from 0 to 65535"),
        ("redis+cluster://", "redis:// or rediss://"),
        ("rediss://h?db=3", "host:port[/database]"),
        ("rediss://h/#insecure", "without a # part"),
        ("redis+sentinel://h1,h2", "host:port/name"),
    ] {
        for mode in ["auto", "local", "redis"] {
            let told = told(&[("redis-url", url), ("mode", mode)]);
            assert!(told.starts_with("--redis-url (REDIS_URL) ") && told.contains(why), "{told}");
            assert_eq!(told.lines().count(), 1, "{told}");
        }
        let told = told(&[("redis-url", url), ("redis-db", "x")]);
        assert!(told.contains("--redis-db") && told.contains("--redis-url"), "{told}");
        assert_eq!(told.lines().count(), 2, "{told}");
    }
}

#[test]
fn certificates_of_no_use_are_told_by_their_own_settings() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let made = || rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let own = made();
    let rubbish = file("rubbish.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let (cert, key) = (file("cert.pem", &own.cert.pem()), file("key.pem", &own.signing_key.serialize_pem()));
    let other = file("other.pem", &made().signing_key.serialize_pem());
    let with = |ca: &str, cert: &str, key: &str| {
        let files = [("redis-ca", ca), ("redis-cert", cert), ("redis-key", key)];
        parse(&files, &[("REDIS_URL", "rediss://h")], &[]).map(drop)
    };
    assert_eq!(with(&cert, &cert, &key), Ok(()));
    for (told, flag) in [
        (with(&rubbish, &cert, &key), "--redis-ca (REDIS_CA)"),
        (with(&cert, &rubbish, &key), "--redis-cert (REDIS_CERT)"),
        (with(&cert, &cert, &other), "--redis-key (REDIS_KEY)"),
    ] {
        let told = told.unwrap_err();
        assert!(told.starts_with(flag) && told.lines().count() == 1, "{flag}: {told}");
    }
}

#[test]
fn certificates_without_tls_are_told_to_be_of_no_use() {
    let authority = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.cert.pem()).unwrap();
    let ca = ("REDIS_CA", file.path().to_str().unwrap());
    let unused = |env: &[(&str, &str)]| parse(&[], env, &[]).unwrap().unused();
    for url in ["redis://h", "unix:///s", "redis+cluster://h"] {
        let told = unused(&[("REDIS_URL", url), ca]).unwrap();
        assert!(told.starts_with("--redis-ca not used"), "{told}");
        assert_eq!(unused(&[("REDIS_URL", url)]), None);
    }
    for url in ["rediss://h", "rediss+sentinel://h/m"] {
        assert_eq!(unused(&[("REDIS_URL", url), ca]), None);
    }
    assert_eq!(unused(&[ca]), None, "local mode");
}

#[test]
fn passwords_in_a_query_are_masked_too() {
    let told =
        parse(&[("redis-url", "redis+ring://u:geheim@h/m?sentinel_password=geheim")], &[], &[]).unwrap_err();
    assert!(told.contains("\"redis+ring://***@h/m?***\"") && !told.contains("geheim"), "{told}");
    // A password that was not encoded as it should have been.
    for url in
        ["redis+ring://u:open?sesame@h/m", "redis+ring://u:x@open?sesame@h", "redis+ring://u:open#sesame@h"]
    {
        let told = parse(&[("redis-url", url)], &[], &[]).unwrap_err();
        assert!(!told.contains("open") && !told.contains("sesame"), "{told}");
    }
}

#[test]
fn addresses_that_are_told_to_others_have_no_secret_in_them() {
    for flag in ["client-url", "worker-url"] {
        for url in [
            "wss://relay:geheim@relay.example",
            "wss://relay:ge/heim@relay.example",
            "wss://geheim@relay.example/ws",
            "wss://relay.example/?token=geheim",
            "wss://relay.example?workerId=api&token=geheim",
            "relay:geheim@relay.example:4000",
        ] {
            let told = parse(&[(flag, url)], &[], &[]).unwrap_err();
            assert!(told.starts_with(&format!("--{flag} (")) && told.contains("--worker-token"), "{told}");
            assert!(!told.contains("geheim") && !told.contains("heim@"), "{told}");
            assert_eq!(told.lines().count(), 1, "{told}");
        }
        let told = parse(&[(flag, "ws://fd00::1:4001")], &[], &[]).unwrap_err();
        assert!(told.contains("IPv6 address in brackets"), "{told}");
        for url in ["wss://relay.example/live/ws", "ws://relay:4001/ws?workerId=api", "ws://[fd00::1]:4001"] {
            assert!(parse(&[(flag, url)], &[], &[]).is_ok(), "{url}");
        }
    }
}

#[test]
fn a_port_that_cannot_be_read_is_no_other_one() {
    for (flag, scheme) in
        [("api-server-url", "http"), ("jwt-jwks", "https"), ("client-url", "wss"), ("worker-url", "ws")]
    {
        for bad in ["h:$API_PORT", "127.0.0.1:99999", "[::1]:0", "h:"] {
            let url = format!("{scheme}://{bad}/x");
            let told = parse(&[(flag, &url)], &[], &[]).unwrap_err();
            assert!(told.starts_with(&format!("--{flag} (")) && told.contains(&format!("{url:?}")), "{told}");
            assert!(told.contains("a port from 1 to 65535") && told.lines().count() == 1, "{told}");
        }
        for good in ["h", "h:1", "[::1]", "[::1]:65535/x"] {
            assert!(parse(&[(flag, &format!("{scheme}://{good}"))], &[], &[]).is_ok(), "{flag} {good}");
        }
    }
}

#[test]
fn proxies_of_ipv4_are_known_in_both_spellings() {
    for (given, trusted) in [
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("::ffff:10.0.0.0/104, ::ffff:0:0/96", "10.0.0.0/8, 0.0.0.0/0"),
        ("10.0.0.1, 10.0.0.0/8, 0.0.0.0/0", "10.0.0.1/32, 10.0.0.0/8, 0.0.0.0/0"),
        ("fd00::/8, ::/0, ::ffff:0:0/95", "fd00::/8, ::/0, ::ffff:0.0.0.0/95"),
    ] {
        let settings = parse(&[("trusted-proxies", given)], &[], &[]).unwrap();
        let networks: Vec<_> = settings.trusted_proxies.iter().map(ToString::to_string).collect();
        assert_eq!(networks.join(", "), trusted);
    }
}

#[test]
fn ingress_streams_are_names_of_their_own() {
    let streams = |text: &str| {
        let env = [("REDIS_URL", "redis://h"), ("INGRESS", text)];
        parse(&[], &env, &[]).map(|settings| settings.redis.unwrap().ingress)
    };
    assert_eq!(streams("events, events:2").unwrap(), ["events", "events:2"]);
    for wrong in ["events,events", "events:dead", "uplink", "log:{user:42}", "app:user:42", "a b", ","] {
        assert!(streams(wrong).unwrap_err().contains("--ingress"), "{wrong}");
    }
}

#[test]
fn production_refuses_to_start_unlocked() {
    let told = parse(&[("env", "production")], &[], &[]).unwrap_err();
    for flag in ["--auth", "--worker-token", "--client-origin"] {
        assert!(told.contains(flag), "{told}");
    }
    let open = [("env", "production"), ("auth", "none"), ("worker-token", "none"), ("client-origin", "*")];
    let settings = parse(&open, &[], &[]).unwrap();
    assert_eq!(settings.bind.to_string(), "0.0.0.0");
    assert_eq!(settings.log_format, LogFormat::Json);
    assert!(settings.worker_tokens.is_empty());
}

#[test]
fn secrets_may_come_from_files() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first-token,second-token\n").unwrap();
    let settings = parse(&[], &[("WORKER_TOKEN_FILE", file.path().to_str().unwrap())], &[]).unwrap();
    assert_eq!(*settings.worker_tokens, ["first-token", "second-token"]);
    let empty = tempfile::NamedTempFile::new().unwrap();
    for path in ["/nowhere", empty.path().to_str().unwrap()] {
        let told = parse(&[], &[("WORKER_TOKEN_FILE", path)], &[]).unwrap_err();
        assert!(told.contains("WORKER_TOKEN_FILE") && told.contains(path), "{told}");
    }
}

#[test]
fn settings_that_are_printed_by_mistake_show_no_secret() {
    let secrets = [
        ("REDIS_URL", "redis://relay:s3cret@127.0.0.1:1"),
        ("WORKER_TOKEN", "s3cret-one,s3cret-two"),
        ("JWT_SECRET", "s3cret-0123456789abcdef0123456789"),
    ];
    let printed = format!("{:?}", parse(&[("auth", "jwt")], &secrets, &[]).unwrap());
    assert!(printed.contains("2 secrets") && !printed.contains("s3cret"), "{printed}");
}

#[test]
fn flags_and_variables_are_each_named_once() {
    for (at, setting) in SETTINGS.iter().enumerate() {
        let twin = SETTINGS[..at].iter().find(|other| other.flag == setting.flag || other.env == setting.env);
        assert!(twin.is_none(), "{}", setting.flag);
    }
}

#[test]
fn jwt_needs_one_key_and_says_what_is_wrong_with_it() {
    let jwt = |env: &[(&str, &str)]| parse(&[("auth", "jwt")], env, &[]).map(|settings| settings.auth);
    assert!(matches!(jwt(&[("JWT_SECRET", "geheim")]), Ok(crate::auth::Config::Jwt(_))));
    for env in [&[][..], &[("JWT_SECRET", "geheim"), ("JWT_PUBLIC_KEY", "/nowhere")]] {
        let told = jwt(env).unwrap_err();
        assert!(
            told.contains("--auth") && told.contains("JWT_PUBLIC_KEY") && !told.contains("geheim"),
            "{told}"
        );
    }
    let private = "-----BEGIN PRIVATE KEY-----\ngeheim\n-----END PRIVATE KEY-----";
    for (name, value, why) in [
        ("JWT_PUBLIC_KEY", "/nowhere", "No such file"),
        ("JWT_PUBLIC_KEY", private, "private key"),
        ("JWT_PUBLIC_KEY", "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----", "neither"),
        ("JWT_JWKS", "/nowhere", "No such file"),
        ("JWT_JWKS", "/dev/null", "JSON"),
    ] {
        let told = jwt(&[(name, value)]).unwrap_err();
        assert!(told.contains(name) && told.contains(why) && !told.contains("geheim"), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn a_key_prefix_cannot_be_spelt_by_an_id_of_another_deployment() {
    for good in ["app:", "users-", "user", "super-user."] {
        let settings = parse(&[("mode", "redis"), ("key-prefix", good)], &[], &[]).unwrap();
        assert_eq!(settings.redis.unwrap().key_prefix, good);
    }
    // `app:user:` and the user `42` would be the key of the user `user:42` of whoever has the prefix `app:`.
    for bad in
        ["user:", "node:", "user:x:", "app:user:", "app:node:a", "a b", "{a}", "\u{e9}", &"p".repeat(65)]
    {
        let told = parse(&[("key-prefix", bad)], &[], &[]).unwrap_err();
        assert!(told.starts_with("--key-prefix"), "{told}");
    }
}

#[test]
fn a_variable_that_is_no_text_does_not_count_as_none() {
    let mut reader = Reader::of_tests(&[], &[], &[]);
    let no_text = || OsString::from_vec(b"se\xff".to_vec());
    let names = ["WORKER_TOKEN", "JWT_SECRET_FILE", "HOME"].map(OsString::from);
    reader.refuse_what_is_no_text(names.into_iter().map(|name| (name, no_text())));
    let told = Settings::parse(reader).unwrap_err().into_iter().map(|mistake| mistake.told);
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            "--worker-token (WORKER_TOKEN) cannot be read: must be UTF-8",
            "--jwt-secret (JWT_SECRET_FILE) cannot be read: must be UTF-8",
        ]
    );
}

#[test]
fn a_list_of_whom_tokens_are_for_has_no_empty_name() {
    for flag in ["jwt-audience", "jwt-issuer"] {
        for value in ["", ",", "api,"] {
            let told = parse(&[("auth", "jwt"), ("jwt-secret", "s"), (flag, value)], &[], &[]).unwrap_err();
            assert!(told.contains(flag) && told.contains("none of them empty"), "{flag} {value:?}: {told}");
        }
    }
    let settings =
        parse(&[("auth", "jwt"), ("jwt-secret", "s"), ("jwt-audience", "a, b")], &[], &[]).unwrap();
    let Config::Jwt(jwt) = settings.auth else { panic!() };
    assert_eq!((jwt.audiences, jwt.issuers), (vec!["a".to_owned(), "b".to_owned()], Vec::new()));
}

#[test]
fn no_secret_is_empty_or_a_word_for_none() {
    let public = "-----BEGIN PUBLIC KEY-----\nMFk\n-----END PUBLIC KEY-----";
    let secrets =
        [("jwt-secret", ""), ("jwt-secret", public), ("worker-token", ""), ("worker-token", "none,abc")];
    for (flag, value) in secrets {
        let told = parse(&[(flag, value)], &[], &[]).unwrap_err();
        assert!(told.contains(flag), "{flag} {value:?}: {told}");
    }
}
