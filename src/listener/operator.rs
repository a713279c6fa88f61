//! What other services and operators ask over HTTP: who is online, where, and on which nodes.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::http::{self, Answer};
use super::routes::{self, Verb};
use super::{Ports, trace};
use crate::engine::unread;
use crate::id::UserId;
use crate::protocol::code::{Code, Refusal};
use crate::protocol::json::{self, List, MAX_ITEMS};
use crate::protocol::publish::ENVELOPE;

/// Answers what is neither health nor publishing; `parts` are those of the path that stand for something.
pub async fn handle(verb: Verb, parts: &[&str], request: &mut Request<Incoming>, ports: &Ports) -> Answer {
    let answered = match (verb, parts) {
        (Verb::Nodes, _) => nodes(ports).await,
        (Verb::OpenApi, _) => Ok(http::answer(StatusCode::OK, "application/json", routes::OPENAPI)),
        (Verb::Status, _) => status(ports).await,
        (Verb::Online, _) => online(request, ports).await,
        (Verb::Sessions, [user]) => sessions(user, ports).await,
        (Verb::SignOut, [user]) => sign_out(user, None, ports).await,
        (Verb::SignOutOne, [user, client]) => sign_out(user, Some(client), ports).await,
        (Verb::Trace, [user]) => {
            let query = request.uri().query().unwrap_or_default().to_owned();
            trace::read(user, &query, ports).await
        }
        (Verb::TraceBegin, [user]) => trace::begin(user, request, ports).await,
        (Verb::TraceEnd, [user]) => trace::end(user, ports).await,
        _ => Ok(http::not_found(&routes::listed())),
    };
    answered.unwrap_or_else(|refusal| http::refuse(&refusal))
}

fn decoded(part: &str) -> String {
    percent_decode_str(part).decode_utf8_lossy().into_owned()
}

/// The user that a part of a path stands for.
///
/// # Errors
/// `invalid_user_id`.
pub fn user_id(part: &str) -> Result<UserId, Refusal> {
    decoded(part).parse().map_err(Refusal::invalid("userId", Code::InvalidUserId))
}

async fn nodes(ports: &Ports) -> Result<Answer, Refusal> {
    let mut nodes = ports.router.engine().nodes().await.map_err(unread)?;
    for node in &mut nodes {
        node.sessions = sessions_of(&node.node_id, ports).unwrap_or(node.sessions);
    }
    Ok(http::json(&serde_json::json!({ "nodes": nodes })))
}

async fn status(ports: &Ports) -> Result<Answer, Refusal> {
    let mut status = ports.router.engine().status().await.map_err(unread)?;
    for node in status.nodes.iter_mut().flatten() {
        node.sessions = sessions_of(&node.node_id, ports).or(node.sessions);
    }
    Ok(http::json(&status))
}

/// How many sessions a node has, where it is this one: Redis has what each said with its last beat.
fn sessions_of(node: &str, ports: &Ports) -> Option<u64> {
    let router = &ports.router;
    (node == router.node().as_str()).then(|| router.registry().len() as u64)
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
    let sessions: Vec<_> = ports.router.engine().sessions(user.clone()).await.map_err(unread)?;
    let sessions: Vec<_> = sessions
        .into_iter()
        .map(|(client, node)| Session { client_id: client.to_string(), node_id: node.to_string() })
        .collect();
    Ok(http::json(&User { user_id: user.to_string(), online: !sessions.is_empty(), sessions }))
}

async fn online(request: &mut Request<Incoming>, ports: &Ports) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Question {
        user_ids: List<String>,
    }
    let body = ports.bodies.read(request, ENVELOPE).await?;
    let question: Question = json::object_of(&body.bytes)
        .map_err(|_| Refusal::new(Code::InvalidFrame, r#"expected {"userIds":["…"]}"#))?;
    if question.user_ids.0.len() > MAX_ITEMS {
        return Err(Refusal::new(Code::TooManyItems, format!("userIds may name at most {MAX_ITEMS} users")));
    }
    let parse =
        |user: &String| user.parse::<UserId>().map_err(Refusal::invalid("userId", Code::InvalidUserId));
    let users = question.user_ids.0.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let online = ports.router.engine().online(users).await.map_err(unread)?;
    let online: Vec<&str> = online.iter().map(UserId::as_str).collect();
    Ok(http::json(&serde_json::json!({ "online": online })))
}

async fn sign_out(user: &str, client: Option<&str>, ports: &Ports) -> Result<Answer, Refusal> {
    let user = user_id(user)?;
    let client = client
        .map(|client| decoded(client).parse())
        .transpose()
        .map_err(Refusal::invalid("clientId", Code::InvalidClientId))?;
    ports.router.engine().sign_out(user, client).await?;
    Ok(http::no_content())
}
