//! What the client port serves to pages: the client module and its types.

use crate::support::{NodeBuilder, http};

const PRODUCTION: [(&str, &str); 4] = [
    ("--env", "production"),
    ("--auth", "none"),
    ("--worker-token", "none"),
    ("--client-origin", "https://app.example.com"),
];

#[tokio::test]
async fn the_module_and_its_types_are_served_in_production_as_well() {
    for settings in [&PRODUCTION[..], &[]] {
        let node = NodeBuilder::local("solo").with(settings).start().await;
        let module = http::get(&node.client_http("/client.js")).await;
        assert_eq!(module.status, 200, "{module:?}");
        assert_eq!(module.header("content-type"), "text/javascript; charset=utf-8");
        assert!(module.body.contains("export const connect"), "{}", module.body);
        assert_eq!(module.header("x-content-type-options"), "nosniff");
        let types = http::get(&node.client_http("/client.d.ts")).await;
        assert_eq!(types.status, 200, "{types:?}");
        assert_eq!(types.header("content-type"), "application/typescript; charset=utf-8");
        assert!(types.body.contains("export declare function connect"), "{}", types.body);
        http::post(&node.client_http("/client.js"), "{}").await.refused(405);
    }
}

#[tokio::test]
async fn a_browser_that_has_the_module_is_told_so() {
    let node = NodeBuilder::local("solo").with(&PRODUCTION).start().await;
    let url = node.client_http("/client.js");
    let first = http::get(&url).await;
    assert_eq!(first.header("cache-control"), "public, max-age=300");
    let etag = first.header("etag");
    assert!(etag.starts_with('"') && etag.len() > 4, "{first:?}");
    for known in [etag.to_owned(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()] {
        let again = http::get_with(&url, &[("if-none-match", &known)]).await;
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{known}");
        assert_eq!(again.header("etag"), etag);
    }
    assert_eq!(http::get_with(&url, &[("if-none-match", "\"other\"")]).await.status, 200);
    let types = http::get(&node.client_http("/client.d.ts")).await;
    assert_ne!(types.header("etag"), etag, "each has its own");
}

#[tokio::test]
async fn pages_of_the_listed_origins_may_import_the_module() {
    let node = NodeBuilder::local("solo").with(&PRODUCTION).start().await;
    let url = node.client_http("/client.js");
    let allowed = |origin: &'static str| {
        let url = url.clone();
        async move { http::get_with(&url, &[("origin", origin)]).await }
    };
    let listed = allowed("https://app.example.com").await;
    assert_eq!(listed.header("access-control-allow-origin"), "https://app.example.com");
    assert!(listed.header("vary").contains("Origin"), "{listed:?}");
    let foreign = allowed("https://evil.example.com").await;
    assert_eq!(foreign.header("access-control-allow-origin"), "", "{foreign:?}");
}

#[tokio::test]
async fn the_console_brings_everything_along_and_nothing_from_elsewhere() {
    let node = NodeBuilder::local("solo").start().await;
    let page = http::get(&node.client_http("/")).await;
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"), "{policy}");
    for path in ["/console.css", "/console.js", "/console-session.js", "/console-convert.js"] {
        let file = http::get(&node.client_http(path)).await;
        assert_eq!(file.status, 200, "{path}");
        assert_eq!(file.header("cache-control"), "no-cache", "{path}");
        assert!(!file.body.contains("//cdn") && !file.body.contains("https://"), "{path}");
    }
    let node = NodeBuilder::local("solo").with(&PRODUCTION).start().await;
    for path in ["/", "/console.css", "/console.js"] {
        http::get(&node.client_http(path)).await.refused(404);
    }
}
