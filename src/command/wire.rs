//! Connections to a node: TCP or TLS, and on it HTTP or a WebSocket.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::Failure;
use super::endpoint::Endpoint;
use crate::tls;

/// For each of: connecting, the handshakes, an answer over HTTP.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest event that a node may allow, and its frame.
const MAX_MESSAGE: usize = 65 << 20;

/// A connection.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A WebSocket.
pub type WebSocket = WebSocketStream<Box<dyn Stream>>;

/// Why there is no WebSocket.
#[derive(Debug)]
pub enum NoSocket {
    /// The node refused, and going on asking may or may not help.
    Refused {
        /// The HTTP status.
        status: u16,
        /// `code: message`.
        reason: String,
    },
    /// Nobody is there, or nobody who speaks as a node does.
    Unreached(String),
}

/// Connects.
///
/// # Errors
/// What went wrong, with the address and where it came from.
async fn connect(to: &Endpoint) -> Result<Box<dyn Stream>, String> {
    let failed = |what: &dyn std::fmt::Display| format!("cannot reach a node at {to}: {what}");
    let tcp = match timeout(PATIENCE, TcpStream::connect((to.host.as_str(), to.port))).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => return Err(failed(&error)),
        Err(_) => return Err(failed(&"no answer in time")),
    };
    let _ = tcp.set_nodelay(true); // fails where the connection is gone already, which shows below
    if !to.secure {
        return Ok(Box::new(tcp));
    }
    let name = ServerName::try_from(to.host.clone()).map_err(|error| failed(&error))?;
    let connector = TlsConnector::from(Arc::new(tls::trusting_system().map_err(|error| failed(&error))?));
    let tls = timeout(PATIENCE, connector.connect(name, tcp)).await;
    match tls {
        Ok(Ok(tls)) => Ok(Box::new(tls)),
        Ok(Err(error)) if is_no_tls(&error) => Err(failed(&"it does not speak TLS: try ws://")),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&"no TLS handshake in time")),
    }
}

/// Whether what came back is nothing that a server says in TLS.
fn is_no_tls(error: &std::io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::InvalidMessage(_)))
}

/// Why a server did not answer: one that waits for TLS says so to nobody who speaks none.
fn unanswered(to: &Endpoint, why: &dyn std::fmt::Display) -> String {
    let hint = if to.secure { "" } else { " (maybe it speaks TLS: try wss://)" };
    format!("{why}{hint}")
}

fn bearer(token: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| "the token has characters that no header may carry".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Opens a WebSocket with this query string.
///
/// # Errors
/// Whether the node refused, or was not reached.
pub async fn websocket(to: &Endpoint, query: &str) -> Result<WebSocket, NoSocket> {
    let stream = connect(to).await.map_err(NoSocket::Unreached)?;
    let unreached =
        |what: &dyn std::fmt::Display| NoSocket::Unreached(format!("no WebSocket at {to}: {what}"));
    // The connection is there already: of the URL only host, path and query go over the wire.
    let url = format!("ws://{}{}?{query}", to.authority(), to.path);
    let mut request = url.into_client_request().map_err(|error| unreached(&error))?;
    if let Some(token) = &to.token {
        request.headers_mut().insert(AUTHORIZATION, bearer(token).map_err(|error| unreached(&error))?);
    }
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let opening = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
    match timeout(PATIENCE, opening).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(Error::Http(answer))) => {
            let status = answer.status().as_u16();
            let body = answer.body().as_deref().unwrap_or_default();
            Err(NoSocket::Refused { status, reason: reason(status, body) })
        }
        // HTTP/1.0, without TLS: a proxy that has nobody to ask, for instance.
        Ok(Err(error @ Error::Protocol(ProtocolError::WrongHttpVersion))) => Err(unreached(&error)),
        Ok(Err(error)) => Err(unreached(&unanswered(to, &error))),
        Err(_) => Err(unreached(&"no handshake in time")),
    }
}

/// Asks over HTTP; a body is JSON.
///
/// # Errors
/// Where no answer came, or one that is not 2xx: then `code: message`, as the node puts it.
pub async fn http(to: &Endpoint, method: Method, path: &str, body: Option<String>) -> Result<Bytes, Failure> {
    let answer = ask(to, method, path, body).await?;
    if answer.status().is_success() {
        return Ok(answer.into_body());
    }
    Err(Failure::Failed(reason(answer.status().as_u16(), answer.body())))
}

/// Asks over HTTP, and gives whatever answer comes.
///
/// # Errors
/// Where none came.
pub async fn ask(
    to: &Endpoint,
    method: Method,
    path: &str,
    body: Option<String>,
) -> Result<Response<Bytes>, Failure> {
    let stream = connect(to).await.map_err(Failure::Failed)?;
    match timeout(PATIENCE, exchange(to, stream, method, path, body)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Failure::Failed(format!("no answer from {to}: {error}"))),
        Err(_) => Err(Failure::Failed(format!("no answer from {to} in time"))),
    }
}

type Trouble = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(
    to: &Endpoint,
    stream: Box<dyn Stream>,
    method: Method,
    path: &str,
    body: Option<String>,
) -> Result<Response<Bytes>, Trouble> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(to.resource(path)).header(HOST, to.authority());
    if let Some(token) = &to.token {
        request = request.header(AUTHORIZATION, bearer(token)?);
    }
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())))?;
    let answer = sender.send_request(request).await.map_err(|error| unanswered(to, &error))?;
    let (head, body) = answer.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}

/// A refusal's code and message, or what can be said of another answer.
fn reason(status: u16, body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    match (body["error"]["code"].as_str(), body["error"]["message"].as_str()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ => format!("an answer with HTTP status {status}, which does not look like a node's"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn only_who_does_not_speak_http_may_speak_tls() {
        let answers =
            [("HTTP/1.0 503 Service Unavailable\r\n\r\n", false), ("\x15\x03\x01\0\x02\x02\n", true)];
        for (answer, may) in answers {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let to = Endpoint::at(&format!("ws://{}", listener.local_addr().unwrap())).unwrap();
            let other = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            let (Err(NoSocket::Unreached(told)), ()) = tokio::join!(websocket(&to, "userId=42"), other)
            else {
                panic!("{answer:?}")
            };
            assert_eq!(told.contains("try wss://"), may, "{told}");
        }
    }
}
