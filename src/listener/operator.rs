//! What other services and operators ask over HTTP: who is online, where, and on which nodes.

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::Ports;
use super::http::{self, Answer};
use crate::id::UserId;
use crate::protocol::code::{Code, Refusal};
use crate::protocol::publish::{ENVELOPE, MAX_ITEMS};

/// Answers what is neither health nor publishing.
pub async fn handle(request: Request<Incoming>, ports: &Ports) -> Answer {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let answered = match (request.method(), parts.as_slice()) {
        (&Method::GET, ["nodes"]) => nodes(ports).await,
        (&Method::POST, ["users", "online"]) => online(request, ports).await,
        (&Method::GET, ["users", user]) => sessions(user, ports).await,
        (&Method::DELETE, ["users", user, "sessions"]) => sign_out(user, None, ports).await,
        (&Method::DELETE, ["users", user, "sessions", client]) => sign_out(user, Some(client), ports).await,
        (_, ["nodes"] | ["users", _] | ["users", _, "sessions"] | ["users", _, "sessions", _]) => {
            Err(Refusal::new(Code::MethodNotAllowed, "this path has another method"))
        }
        _ => Ok(http::not_found(
            "a WebSocket at / and /ws, POST /publish, GET /users/{id}, POST /users/online, \
             DELETE /users/{id}/sessions[/{clientId}], GET /nodes, GET /metrics, GET /healthz and GET /readyz",
        )),
    };
    answered.unwrap_or_else(|refusal| http::refuse(&refusal))
}

fn decoded(part: &str) -> String {
    percent_decode_str(part).decode_utf8_lossy().into_owned()
}

fn user_id(part: &str) -> Result<UserId, Refusal> {
    decoded(part).parse().map_err(|error| Refusal::new(Code::InvalidUserId, format!("{error}")))
}

async fn nodes(ports: &Ports) -> Result<Answer, Refusal> {
    let nodes = ports.router.engine().nodes().await?;
    Ok(http::json(&serde_json::json!({ "nodes": nodes })))
}

async fn sessions(user: &str, ports: &Ports) -> Result<Answer, Refusal> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Session {
        client_id: String,
        node_id: String,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct User {
        user_id: String,
        online: bool,
        sessions: Vec<Session>,
    }
    let user = user_id(user)?;
    let sessions: Vec<_> = ports.router.engine().sessions(user.clone()).await?;
    let sessions: Vec<_> = sessions
        .into_iter()
        .map(|(client, node)| Session { client_id: client.to_string(), node_id: node.to_string() })
        .collect();
    Ok(http::json(&User { user_id: user.to_string(), online: !sessions.is_empty(), sessions }))
}

async fn online(request: Request<Incoming>, ports: &Ports) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Question {
        user_ids: Vec<String>,
    }
    let body = ports.bodies.read(request, ENVELOPE).await?;
    let question: Question = serde_json::from_slice(&body.bytes)
        .map_err(|_| Refusal::new(Code::InvalidFrame, r#"expected {"userIds":["…"]}"#))?;
    if question.user_ids.len() > MAX_ITEMS {
        return Err(Refusal::new(Code::TooManyItems, format!("userIds may name at most {MAX_ITEMS} users")));
    }
    let parse = |user: &String| {
        user.parse::<UserId>().map_err(|error| Refusal::new(Code::InvalidUserId, format!("{error}")))
    };
    let users = question.user_ids.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let online = ports.router.engine().online(users).await?;
    let online: Vec<&str> = online.iter().map(UserId::as_str).collect();
    Ok(http::json(&serde_json::json!({ "online": online })))
}

async fn sign_out(user: &str, client: Option<&str>, ports: &Ports) -> Result<Answer, Refusal> {
    let user = user_id(user)?;
    let client = client
        .map(|client| decoded(client).parse())
        .transpose()
        .map_err(|error| Refusal::new(Code::InvalidClientId, format!("{error}")))?;
    ports.router.engine().sign_out(user, client).await?;
    let mut answer = Response::default();
    *answer.status_mut() = StatusCode::NO_CONTENT;
    Ok(answer)
}
