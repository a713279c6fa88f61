//! Sessions in Redis: connect, disconnect, heartbeat, and the questions about them.

use std::sync::atomic::Ordering;

use redis::{Pipeline, Value, cmd};
use tracing::debug;

use super::presence::Owed;
use super::{Context, inbox, ms, reply, scripts};
use crate::engine::{
    Beat, Beaten, Connect, Connected, Disconnect, LogEvent, Mode, Registration, Unavailable, Uplink,
};
use crate::id::{ClientId, NodeId, UserId};

/// Sessions of one script call: 50 keep Redis for less than a millisecond.
pub const MAX_CONNECTS: usize = 50;

/// Registers a batch of sessions, tells the nodes whose connections they replace, and notes who came online.
///
/// # Errors
/// Where Redis is away; each session's own trouble is in its place.
pub async fn connect(
    context: &Context,
    connects: &[Connect],
) -> Result<Vec<Result<Connected, Unavailable>>, Unavailable> {
    let mut pipeline = redis::pipe();
    // First, so that a survivor finds the user even if this node dies between the two.
    let mut served = cmd("SADD");
    served.arg(context.keys.users(&context.config.node));
    for connect in connects {
        served.arg(connect.user.as_str());
    }
    pipeline.add_command(served);

    let mut call = scripts::call(&scripts::CONNECT, 4 * connects.len(), 5 + 3 * connects.len());
    for connect in connects {
        user_keys(context, &mut call, &connect.user);
    }
    call.arg(context.config.node.as_str())
        .arg(ms(context.config.session_ttl))
        .arg(ms(context.config.log_ttl))
        .arg(context.config.max_sessions_per_user)
        .arg(context.whole_since.load(Ordering::Acquire));
    for connect in connects {
        call.arg(connect.client.as_str())
            .arg(if connect.mode == Mode::New { "new" } else { "resume" })
            .arg(connect.since.map_or_else(String::new, |since| since.to_string()));
    }
    pipeline.add_command(call);
    let answers = context.link.run(&pipeline).await?.into_iter().nth(1).unwrap_or(Value::Nil);

    let (mut notes, mut owed) = (redis::pipe(), Owed::default());
    let mut outcomes = Vec::with_capacity(connects.len());
    for (connect, answer) in connects.iter().zip(reply::array(answers)?) {
        let registered =
            reply::item(answer).and_then(|items| registered(context, connect, items, &mut notes, &mut owed));
        outcomes.push(registered);
    }
    if !notes.is_empty() {
        context.link.run(&notes).await?;
    }
    if let Err(error) = owed.tell(context).await {
        debug!(%error, "presence was not told; the next heartbeat tries again");
    }
    Ok(outcomes)
}

fn registered<'a>(
    context: &Context,
    connect: &'a Connect,
    items: Vec<Value>,
    notes: &mut Pipeline,
    owed: &mut Owed<'a>,
) -> Result<Connected, Unavailable> {
    match items.first().map(reply::text).transpose()? {
        Some("full") => return Ok(Connected::Full),
        Some("replaced") => return Ok(Connected::Replaced),
        _ => {}
    }
    let [_, position, from, whole, replayed, upto, more, replaced, edges, order, events] =
        <[Value; 11]>::try_from(items)
            .map_err(|_| Unavailable::new("connect.lua answered with another shape"))?;
    let order = u64::try_from(reply::integer(&order)?).unwrap_or_default();
    let replaced = reply::text(&replaced)?;
    if !replaced.is_empty() {
        let head = inbox::replaced(&connect.user, &connect.client, order);
        notes.add_command(inbox::add(context, replaced, [(head, &b""[..])]));
    }
    owed.add(&connect.user, reply::text(&edges)?);
    Ok(Connected::Registered(Registration {
        position: reply::event_id(&position)?.unwrap_or_default(),
        from: reply::event_id(&from)?.unwrap_or_default(),
        whole: reply::integer(&whole)? == 1,
        replayed: u64::try_from(reply::integer(&replayed)?).unwrap_or_default(),
        upto: reply::event_id(&upto)?.unwrap_or_default(),
        more: reply::integer(&more)? == 1,
        order,
        events: log_events(events)?,
    }))
}

fn log_events(value: Value) -> Result<Vec<LogEvent>, Unavailable> {
    let mut values = reply::array(value)?.into_iter();
    let mut events = Vec::with_capacity(values.len() / 3);
    while let (Some(id), Some(event), Some(data)) = (values.next(), values.next(), values.next()) {
        events.push(LogEvent {
            id: reply::event_id(&id)?.unwrap_or_default(),
            event: reply::text(&event)?.into(),
            data: reply::bytes(data)?,
        });
    }
    Ok(events)
}

/// Takes a batch of sessions off their users, and notes who went offline.
///
/// # Errors
/// Where Redis is away: it may be done again.
pub async fn disconnect(context: &Context, ends: &[Disconnect]) -> Result<(), Unavailable> {
    let mut call = scripts::call(&scripts::DISCONNECT, 4 * ends.len(), 2 + 2 * ends.len());
    for end in ends {
        user_keys(context, &mut call, &end.user);
    }
    call.arg(context.config.node.as_str()).arg(ms(context.config.log_ttl));
    for end in ends {
        call.arg(end.client.as_str())
            .arg(end.confirmed.map_or_else(String::new, |confirmed| confirmed.to_string()));
    }
    let edges = reply::array(context.link.run_one(call).await?)?;

    let mut owed = Owed::default();
    let mut unserved = cmd("SREM");
    unserved.arg(context.keys.users(&context.config.node));
    let mut any = false;
    for (end, edges) in ends.iter().zip(&edges) {
        if end.last_here {
            unserved.arg(end.user.as_str());
            any = true;
        }
        owed.add(&end.user, reply::text(edges)?);
    }
    // First told, then let go of: a survivor finds what is owed by the users that this node served.
    owed.tell(context).await?;
    if any {
        context.link.run_one(unserved).await?;
    }
    Ok(())
}

/// Renews leases.
///
/// # Errors
/// Where Redis is away.
pub async fn heartbeat(context: &Context, beats: &[Beat]) -> Result<Vec<Beaten>, Unavailable> {
    let mut call = scripts::call(&scripts::HEARTBEAT, 4 * beats.len(), 3 + beats.len());
    for beat in beats {
        user_keys(context, &mut call, &beat.user);
    }
    call.arg(context.config.node.as_str())
        .arg(ms(context.config.session_ttl))
        .arg(ms(context.config.log_ttl));
    for beat in beats {
        call.arg(beat.confirmed.len());
        for (client, id) in &beat.confirmed {
            call.arg(client.as_str()).arg(id.to_string());
        }
    }
    let answers = reply::array(context.link.run_one(call).await?)?;
    let (mut beaten, mut owed) = (Vec::with_capacity(beats.len()), Owed::default());
    for (beat, answer) in beats.iter().zip(&answers) {
        let answer = reply::text(answer)?;
        let (newest, edges) = answer.split_once(' ').unwrap_or((answer, ""));
        owed.add(&beat.user, edges);
        beaten.push(if newest.is_empty() {
            Beaten::Lost
        } else {
            Beaten::Renewed(newest.parse().map_err(|_| Unavailable::new("heartbeat.lua gave no event id"))?)
        });
    }
    if let Err(error) = owed.tell(context).await {
        debug!(%error, "presence was not told; the next heartbeat tries again");
    }
    Ok(beaten)
}

/// A user's keys, in the order of the scripts.
pub fn user_keys(context: &Context, call: &mut redis::Cmd, user: &UserId) {
    call.arg(context.keys.user(user))
        .arg(context.keys.nodes_of(user))
        .arg(context.keys.log(user))
        .arg(context.keys.cursor(user));
}

/// An `XADD` to a stream that keeps `--uplink-length` entries.
pub fn bounded_add(context: &Context, stream: String) -> redis::Cmd {
    let mut add = cmd("XADD");
    add.arg(stream).arg("MAXLEN").arg("~").arg(context.config.uplink_length).arg("*");
    add
}

/// Puts a client's message on the `uplink` stream.
///
/// # Errors
/// Where Redis is away.
pub async fn uplink(context: &Context, message: &Uplink) -> Result<(), Unavailable> {
    let mut add = bounded_add(context, context.keys.uplink());
    add.arg("user").arg(message.user.as_str()).arg("client").arg(message.client.as_str());
    add.arg("event").arg(message.event.as_str()).arg("data").arg(message.data.as_bytes());
    context.link.run_one(add).await.map(drop)
}

/// A user's sessions, by client id.
///
/// # Errors
/// Where Redis is away.
pub async fn of(context: &Context, user: &UserId) -> Result<Vec<(ClientId, NodeId)>, Unavailable> {
    let mut members = cmd("SMEMBERS");
    members.arg(context.keys.user(user));
    let mut sessions = Vec::new();
    for member in reply::array(context.link.run_one(members).await?)? {
        if let Some((client, node)) = reply::text(&member)?.split_once('@')
            && let (Ok(client), Ok(node)) = (client.parse(), node.parse())
        {
            sessions.push((client, node));
        }
    }
    sessions.sort();
    Ok(sessions)
}

/// Which of `users` are online.
///
/// # Errors
/// Where Redis is away.
pub async fn online(context: &Context, users: Vec<UserId>) -> Result<Vec<UserId>, Unavailable> {
    let mut pipeline = redis::pipe();
    for user in &users {
        pipeline.cmd("EXISTS").arg(context.keys.user(user));
    }
    let there = if users.is_empty() { Vec::new() } else { context.link.run(&pipeline).await? };
    let mut online = Vec::new();
    for (user, there) in users.into_iter().zip(&there) {
        if reply::integer(there)? == 1 {
            online.push(user);
        }
    }
    Ok(online)
}

/// Asks the nodes that hold the user's sessions to close them, or one of them.
///
/// # Errors
/// Where Redis is away.
pub async fn sign_out(
    context: &Context,
    user: &UserId,
    client: Option<&ClientId>,
) -> Result<(), Unavailable> {
    let mut nodes: Vec<NodeId> = of(context, user)
        .await?
        .into_iter()
        .filter(|(its_client, _)| client.is_none_or(|client| client == its_client))
        .map(|(_, node)| node)
        .collect();
    nodes.dedup();
    let mut notes = redis::pipe();
    for node in nodes {
        notes.add_command(inbox::add(context, node.as_str(), [(inbox::sign_out(user, client), &b""[..])]));
    }
    if notes.is_empty() {
        return Ok(());
    }
    context.link.run(&notes).await.map(drop)
}
