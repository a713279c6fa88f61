//! What the client port serves to pages: the client module with its types, and in development the console.

use std::sync::LazyLock;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Request, StatusCode};

use super::Ports;
use super::http::{self, Answer};

/// A file of `src/browser/`.
pub struct File {
    content_type: &'static str,
    text: &'static str,
    etag: LazyLock<String>,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

static MODULE: File = File {
    content_type: SCRIPT,
    text: include_str!("../browser/client.js"),
    etag: LazyLock::new(|| etag(MODULE.text)),
};
static TYPES: File = File {
    content_type: "application/typescript; charset=utf-8",
    text: include_str!("../browser/client.d.ts"),
    etag: LazyLock::new(|| etag(TYPES.text)),
};
const CONSOLE: &str = include_str!("../browser/console.html");

/// The file at this path of the client port, where there is one.
pub fn file(path: &str) -> Option<&'static File> {
    match path {
        "/client.js" => Some(&MODULE),
        "/client.d.ts" => Some(&TYPES),
        _ => None,
    }
}

/// A name for a file's content: FNV-1a is no secret and needs none, it only has to differ.
fn etag(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("\"{hash:016x}\"")
}

/// Answers with a file, or with 304 where the browser has it.
pub fn serve(file: &'static File, request: &Request<Incoming>, ports: &Ports) -> Answer {
    let known = request.headers().get_all(header::IF_NONE_MATCH).iter();
    let known = known.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let unchanged = known.map(str::trim).any(|tag| tag.trim_start_matches("W/") == *file.etag);
    let mut answer = if unchanged {
        http::answer(StatusCode::NOT_MODIFIED, file.content_type, "")
    } else {
        http::answer(StatusCode::OK, file.content_type, file.text)
    };
    let headers = answer.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&file.etag) {
        headers.insert(header::ETAG, tag);
    }
    // A node that is upgraded brings a new module; old and new ones get along for five minutes and longer.
    let caching = if ports.development { "no-cache" } else { "public, max-age=300" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    // Pages of another origin import it, isolated ones as well.
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("x-typescript-types", HeaderValue::from_static("./client.d.ts"));
    answer
}

/// The console page.
pub fn console(ports: &Ports) -> Answer {
    let page = CONSOLE
        .replace("{{CLIENT_URL}}", &escaped(&ports.client_url))
        .replace("{{WORKER_URL}}", &escaped(&ports.worker_url));
    http::answer(StatusCode::OK, "text/html; charset=utf-8", page)
}

/// Text as it may stand in an HTML attribute.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;")
}
