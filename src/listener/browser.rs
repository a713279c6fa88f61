//! What the client port serves to pages: the client module with its types, and in development the console.

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Request, StatusCode};

use super::Ports;
use super::http::{self, Answer};

/// A file of `src/browser/`.
pub struct File {
    content_type: &'static str,
    text: &'static str,
    hash: u64,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

static MODULE: File = File::new(SCRIPT, include_str!("../browser/client.js"));
static TYPES: File =
    File::new("application/typescript; charset=utf-8", include_str!("../browser/client.d.ts"));
static CONSOLE: [(&str, File); 4] = [
    ("/console.css", File::new("text/css; charset=utf-8", include_str!("../browser/console.css"))),
    ("/console.js", File::new(SCRIPT, include_str!("../browser/console.js"))),
    ("/console-session.js", File::new(SCRIPT, include_str!("../browser/console-session.js"))),
    ("/console-convert.js", File::new(SCRIPT, include_str!("../browser/console-convert.js"))),
];
const PAGE: &str = include_str!("../browser/console.html");

/// The page's scripts and styles are its own. It may reach other nodes and worker ports, whatever their addresses.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data: blob:; \
     connect-src http: https: ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

impl File {
    const fn new(content_type: &'static str, text: &'static str) -> Self {
        // FNV-1a: it keeps no secret, it only has to differ where the text does.
        let (bytes, mut hash, mut at) = (text.as_bytes(), 0xcbf2_9ce4_8422_2325_u64, 0);
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
            at += 1;
        }
        Self { content_type, text, hash }
    }
}

/// The file at this path of the client port, where there is one.
pub fn file(path: &str, development: bool) -> Option<&'static File> {
    match path {
        "/client.js" => Some(&MODULE),
        "/client.d.ts" => Some(&TYPES),
        _ if development => CONSOLE.iter().find(|(its, _)| *its == path).map(|(_, file)| file),
        _ => None,
    }
}

/// Answers with a file, or with 304 where the browser has it.
pub fn serve(file: &'static File, request: &Request<Incoming>, ports: &Ports) -> Answer {
    let tag = format!("\"{:016x}\"", file.hash);
    let known = request.headers().get_all(header::IF_NONE_MATCH).iter();
    let known = known.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let unchanged = known.map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == tag);
    let mut answer = if unchanged {
        http::answer(StatusCode::NOT_MODIFIED, file.content_type, "")
    } else {
        http::answer(StatusCode::OK, file.content_type, file.text)
    };
    let headers = answer.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&tag) {
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
    let page = PAGE
        .replace("{{CLIENT_URL}}", &escaped(&ports.client_url))
        .replace("{{WORKER_URL}}", &escaped(&ports.worker_url));
    let mut answer = http::answer(StatusCode::OK, "text/html; charset=utf-8", page);
    answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, PAGE_POLICY);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Text as it may stand in an HTML attribute.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;")
}
