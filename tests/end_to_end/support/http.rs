//! Plain HTTP, one connection a request: a kept connection would count against `--max-connections`.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::Value;

use super::wait::eventually;

/// Longer than the slowest documented answer (5 s until a silent API server becomes a 503).
const TIMEOUT: Duration = Duration::from_secs(12);

/// A response that has been read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    /// The body as JSON; panics with the whole answer where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Panics unless this is a refusal with this status and the documented body; gives the code.
    pub fn refused(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        let (code, message) = (body["error"]["code"].as_str(), body["error"]["message"].as_str());
        let (Some(code), Some(_)) = (code, message) else {
            panic!("no error.code and error.message in {self:?}");
        };
        code.to_owned()
    }

    /// A header's text; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Sends a request; `Err` says why there was no response.
pub async fn request(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Result<Answer, String> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(TIMEOUT)
        .pool_max_idle_per_host(0)
        .build()
        .expect("an HTTP client");
    let mut request = client.request(method, url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.body(body.to_owned());
    }
    let response = request.send().await.map_err(|error| format!("{error:?}"))?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    // A switched connection has no body to wait for.
    let body = match status {
        101 => String::new(),
        _ => response.text().await.map_err(|error| format!("{error:?}"))?,
    };
    Ok(Answer { status, headers, body })
}

/// `GET`, where the absence of an answer is one of the things to be seen.
pub async fn try_get(url: &str) -> Result<Answer, String> {
    request(Method::GET, url, &[], None).await
}

/// `GET`; panics where there is no answer.
pub async fn get(url: &str) -> Answer {
    answered(url, try_get(url).await)
}

/// Asks until an answer with this status comes, and gives it.
pub async fn answers(url: &str, status: u16, bound: Duration) -> Answer {
    eventually(bound, &format!("{status} from {url}"), async || {
        let answer = try_get(url).await?;
        if answer.status == status { Ok(answer) } else { Err(format!("{answer:?}")) }
    })
    .await
}

/// `GET` with headers.
pub async fn get_with(url: &str, headers: &[(&str, &str)]) -> Answer {
    answered(url, request(Method::GET, url, headers, None).await)
}

/// `POST` of a JSON text.
pub async fn post(url: &str, json: &str) -> Answer {
    post_as(url, "application/json", json).await
}

/// `POST` of a text of any type.
pub async fn post_as(url: &str, content_type: &str, body: &str) -> Answer {
    let headers = [("content-type", content_type)];
    answered(url, request(Method::POST, url, &headers, Some(body)).await)
}

/// `DELETE`.
pub async fn delete(url: &str) -> Answer {
    answered(url, request(Method::DELETE, url, &[], None).await)
}

/// Asks for a WebSocket as a browser would, and gives whatever HTTP answer comes.
pub async fn upgrade(ws_url: &str, headers: &[(&str, &str)]) -> Answer {
    let url = ws_url.replacen("ws://", "http://", 1);
    let mut all = vec![
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    all.extend_from_slice(headers);
    get_with(&url, &all).await
}

fn answered(url: &str, answer: Result<Answer, String>) -> Answer {
    answer.unwrap_or_else(|error| panic!("no answer from {url}: {error}"))
}
