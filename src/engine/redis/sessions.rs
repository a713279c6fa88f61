//! Sessions in Redis: connect, disconnect, heartbeat.

mod disconnect;
pub mod late;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use redis::{Value, cmd};
use tracing::{debug, warn};

use super::inbox::Hints;
use super::presence::Owed;
use super::slot::{Groups, Slot};
use super::{Context, inbox, ms, node, publish, reply, scripts};
use crate::engine::{
    Connect, Connected, LeaseState, LogEvent, MAX_BEATS, Mode, Registration, Told, Unavailable, UserLease,
};
use crate::id::{ClientId, EventId, NodeId, UserId};
pub use disconnect::{End, Ended, disconnect, each as disconnect_each};
use late::Awaited;

/// Sessions of one script call: 32 keep Redis for 0.7 ms; 50 for more than one, and cost as much for each.
pub const MAX_CONNECTS: usize = 32;

/// A time after all others, which Lua still holds exactly: where nothing is known of a data set.
const NEVER_MS: u64 = 1 << 52;

/// Registers a batch of sessions, and tells the nodes whose connections they replace, or whose sessions do not know of a
/// loss that one of these knows of. Who came online is to be told by [`tell_online`].
pub async fn connect(context: &Context, connects: &[Connect]) -> (Vec<Result<Connected, Unavailable>>, Owed) {
    let mut owed = Owed::default();
    if let Err(refused) = context.link.is_trusted() {
        // Everyone looks again and again during an outage: no calls are put together to be refused at once.
        return (connects.iter().map(|_| Err(refused.clone())).collect(), owed);
    }
    let mut outcomes: Vec<_> = connects.iter().map(|_| Err(Unavailable::new("it was never asked"))).collect();
    let mut left: Vec<usize> = (0..connects.len()).collect();
    // Where logs are large, one call takes a few of them. It always takes the first.
    while !left.is_empty() {
        let batch: Vec<_> = left.iter().map(|place| &connects[*place]).collect();
        let mut later = Vec::new();
        for (place, outcome) in left.into_iter().zip(connect_some(context, &batch, &mut owed).await) {
            match outcome.transpose() {
                Some(outcome) => outcomes[place] = outcome,
                None => later.push(place),
            }
        }
        left = later;
    }
    (outcomes, owed)
}

/// Tells `presence` who came online. What fails stays owed.
pub async fn tell_online(context: &Arc<Context>, owed: Owed) {
    match owed.tell(context).await {
        Ok(settle) if settle.is_empty() => {}
        Ok(settle) => {
            // Nobody need wait for that.
            let context = context.clone();
            tokio::spawn(async move { context.link.probe_each(&settle).await });
        }
        Err(error) => debug!(%error, "presence was not told; the next heartbeat tries again"),
    }
}

/// As [`connect`]; none for those whose turn comes later.
async fn connect_some(
    context: &Context,
    connects: &[&Connect],
    owed: &mut Owed,
) -> Vec<Result<Option<Connected>, Unavailable>> {
    // First, so that a survivor finds the user even if this node dies between the two.
    let users = connects.iter().map(|connect| &connect.user);
    let served = list(context, "SADD", &context.config.node, users);
    let slots = connects.iter().map(|connect| user_slot(context, &connect.user));
    let groups = Groups::new(slots, MAX_CONNECTS);
    let script = |group: &[usize], until| script(context, connects, group, until);
    let awaited = Awaited::now(context);
    let mut calls: Vec<_> = groups.iter().map(|group| script(group, awaited.until)).collect();
    // The first user makes the key anew, and this node may die before its next beat. Its answer, the last, is no group's.
    calls.push(keep_served(context));
    let (served, answers) = context.link.run_after(served, calls).await;
    let answers = awaited.hear(context, &groups, answers, true, script).await;

    let (mut told, mut whose) = (redis::pipe(), Vec::new());
    let mut outcomes = groups.outcomes(answers, |place, answer| {
        let Connect { user, client, .. } = connects[place];
        let opened = opened(answer).inspect_err(|error| context.broken.tell(user, error))?;
        if let Some(Connected::Registered(registration)) = &opened.connected {
            let is_new = connects[place].mode == Mode::New;
            for other in nodes_to_tell(&opened.tell, client, &context.config.node) {
                if other == context.config.node {
                    context.node().inspect(|node| node.look(user.as_str(), None));
                    continue;
                }
                let hints = match is_new {
                    true => Hints::replaced(user, client, registration.order),
                    false => Hints::look_at(user),
                };
                told.add_command(inbox::add(context, other.as_str(), &hints));
                whose.push((place, other));
            }
        }
        owed.add(user, &opened.edges);
        Ok(opened.connected)
    });
    // Where the older connection cannot be told to go, the newer one may not begin. The older one has lost its place
    // already: once it looks, it has that again, or is told. Who cannot be told of a loss yet hears of it later.
    let told = match &served {
        Ok(_) => context.link.run_each(&told).await,
        Err(error) => vec![Err(error.clone()); whose.len()],
    };
    for ((place, other), answer) in whose.into_iter().zip(told) {
        if let Err(error) = answer {
            publish::note_unsent(context, &other, &connects[place].user);
            if connects[place].mode == Mode::New {
                outcomes[place] = Err(error);
            }
        }
    }
    if let Err(error) = served {
        outcomes.iter_mut().for_each(|outcome| *outcome = Err(error.clone()));
    }
    outcomes
}

/// Puts users on the list of those that a node serves (`SADD`), or takes them off it (`SREM`).
pub fn list<'a>(
    context: &Context,
    verb: &str,
    node: &NodeId,
    users: impl Iterator<Item = &'a UserId>,
) -> redis::Cmd {
    let mut list = cmd(verb);
    list.arg(context.keys.users(node)).arg(users.map(UserId::as_str).collect::<Vec<_>>());
    list
}

/// Lets the list of users that this node serves lapse, as `claim.lua` and `beat.lua` do.
pub fn keep_served(context: &Context) -> redis::Cmd {
    let mut keep = cmd("PEXPIRE");
    keep.arg(context.keys.users(&context.config.node)).arg(ms(node::kept(context)));
    keep
}

/// Looks at how many are on the list of whom this node serves, which are `users` at least: where it has been deleted, or
/// evicted, nobody could clear up after those. Whoever registers is put on it. One look is not enough, as some may have left
/// since they were counted; nor are two where so many came between that all are registering anew already.
pub fn look_at_served(context: &Context, users: usize, served: Result<i64, Unavailable>) {
    let served = context.refused.hear("to list whom this node serves", served);
    let listed = served.map_or(users, |served| usize::try_from(served).unwrap_or_default());
    let missing = users.saturating_sub(listed);
    let before = context.beside.unlisted.swap(missing, Ordering::AcqRel);
    if missing > 0
        && before > 0
        && missing >= before - before / 16
        && let Some(node) = context.node()
    {
        warn!(missing, "users that this node serves were gone from its list: every session registers anew");
        node.doubted(&|_| true);
    }
}

/// The script call for those of a batch that share a slot; nobody waits for it after `until`.
fn script(context: &Context, connects: &[&Connect], group: &[usize], until: u64) -> redis::Cmd {
    let mut call = scripts::call(&scripts::CONNECT, 4 * group.len(), 7 + 7 * group.len());
    for place in group {
        user_keys(context, &mut call, &connects[*place].user);
    }
    let whole_since = group.first().and_then(|place| {
        let user = &connects[*place].user;
        context.link.whole_since(&context.keys.user(user).to_string())
    });
    call.arg(context.config.node.as_str())
        .arg(ms(context.config.session_ttl))
        .arg(ms(context.config.log_ttl))
        .arg(context.config.max_sessions_per_user)
        .arg(whole_since.unwrap_or(NEVER_MS))
        .arg(context.config.log_length)
        .arg(until);
    let text = |id: Option<EventId>| id.map_or_else(String::new, |id| id.to_string());
    let known = |id: EventId| text(Some(id).filter(|id| *id != EventId::ZERO));
    for place in group {
        let connect = connects[*place];
        let (mode, told) = match connect.mode {
            Mode::New => ("new".to_owned(), Told::default()),
            Mode::Resume { order, told } => (order.to_string(), told),
        };
        call.arg(connect.client.as_str()).arg(mode);
        call.arg(text(connect.since)).arg(text(connect.confirmed));
        call.arg(known(told.event)).arg(u8::from(told.is_lost)).arg(told.knows.to_string());
    }
    call
}

/// What `connect.lua` answered for one session.
pub struct Opened {
    /// None where its turn comes later.
    connected: Option<Connected>,
    /// Who is to be told; empty for nobody.
    tell: String,
    /// What `presence` is to say.
    edges: String,
}

/// Reads what `connect.lua` answered for one session.
///
/// # Errors
/// Where it has another shape.
pub fn opened(answer: Value) -> Result<Opened, Unavailable> {
    let another_shape = || Unavailable::new("connect.lua answered with another shape");
    let (text, events) = match answer {
        Value::Array(items) => {
            let [text, events] = <[Value; 2]>::try_from(items).map_err(|_| another_shape())?;
            (text, log_events(events)?)
        }
        text => (text, Vec::new()),
    };
    let text = reply::item(reply::text(&text)?)?;
    let (what, rest) = text.split_once(' ').unwrap_or((text, ""));
    let only = |connected| Ok(Opened { connected, tell: String::new(), edges: String::new() });
    match what {
        "ok" => {}
        "full" => return only(Some(Connected::Full)),
        "replaced" => return only(Some(Connected::Replaced)),
        "out" => return only(Some(Connected::SignedOut)),
        "later" => return only(None),
        _ => return Err(another_shape()),
    }
    let mut words = rest.splitn(12, ' ');
    let mut word = || words.next().ok_or_else(another_shape);
    let id = |word: &str| word.parse().map_err(|_| another_shape());
    let number = |word: &str| word.parse().map_err(|_| another_shape());
    let registration = Registration {
        position: id(word()?)?,
        from: id(word()?)?,
        whole: word()? == "1",
        replayed: number(word()?)?,
        upto: id(word()?)?,
        more: word()? == "1",
        order: number(word()?)?,
        anew: word()? == "1",
        knows: id(word()?)?,
        heard: id(word()?)?,
        events,
    };
    let tell = word()?;
    Ok(Opened {
        connected: Some(Connected::Registered(registration)),
        tell: if tell == "-" { String::new() } else { tell.to_owned() },
        edges: words.next().unwrap_or_default().to_owned(),
    })
}

/// The nodes that are named in what `connect.lua` answered, alone or behind their clients. Of this node's own, those who are
/// not the session itself.
fn nodes_to_tell(tell: &str, client: &ClientId, here: &NodeId) -> BTreeSet<NodeId> {
    let node_of = |named: &str| match named.rsplit_once('@') {
        Some((its_client, node)) if its_client == client.as_str() && node == here.as_str() => None,
        Some((_, node)) => node.parse().ok(),
        None => named.parse().ok(),
    };
    tell.split('/').filter_map(node_of).collect()
}

fn log_events(value: Value) -> Result<Vec<LogEvent>, Unavailable> {
    let mut values = reply::array(value)?.into_iter();
    let mut events = Vec::with_capacity(values.len() / 3);
    while let (Some(id), Some(event), Some(data)) = (values.next(), values.next(), values.next()) {
        events.push(LogEvent {
            id: reply::event_id(&id)?,
            event: reply::text(&event)?.into(),
            data: reply::bytes(data)?,
        });
    }
    Ok(events)
}

/// Renews leases. On a Cluster some may be renewed and others not; each has its own outcome.
pub async fn heartbeat(context: &Context, leases: &[UserLease]) -> Vec<Result<LeaseState, Unavailable>> {
    let groups = Groups::new(leases.iter().map(|lease| user_slot(context, &lease.user)), MAX_BEATS);
    let mut calls = redis::pipe();
    for group in groups.iter() {
        let mut call = scripts::call(&scripts::HEARTBEAT, 4 * group.len(), 3 + group.len());
        for place in group {
            user_keys(context, &mut call, &leases[*place].user);
        }
        call.arg(context.config.node.as_str())
            .arg(ms(context.config.session_ttl))
            .arg(ms(context.config.log_ttl));
        for place in group {
            call.arg(leases[*place].confirmed.len());
            for (client, id) in &leases[*place].confirmed {
                call.arg(client.as_str()).arg(id.to_string());
            }
        }
        calls.add_command(call);
    }
    let answers = context.link.run_each(&calls).await;
    let mut owed = Owed::default();
    let states = groups.outcomes(answers, |place, answer| {
        let user = &leases[place].user;
        let Some(answer) = context.broken.item_of(user, reply::text(&answer)?) else {
            return Ok(LeaseState::Unknown);
        };
        let (newest, edges) = answer.split_once(' ').unwrap_or((answer, ""));
        owed.add(user, edges);
        if newest.is_empty() {
            return Ok(LeaseState::Lost);
        }
        let (newest, lost) = newest.split_once('/').unwrap_or((newest, "0-0"));
        let id = |id: &str| id.parse().map_err(|_| Unavailable::new("heartbeat.lua gave no event id"));
        Ok(LeaseState::Renewed { newest: id(newest)?, lost: id(lost)? })
    });
    if let Err(error) = owed.pay(context).await {
        debug!(%error, "presence was not told; the next heartbeat tries again");
    }
    states
}

/// The slot of a user's keys.
pub fn user_slot(context: &Context, user: &UserId) -> Slot {
    context.link.slot(|| context.keys.user(user).to_string())
}

/// A user's keys, in the order of the scripts.
pub fn user_keys(context: &Context, call: &mut redis::Cmd, user: &UserId) {
    call.arg(context.keys.user(user))
        .arg(context.keys.nodes_of(user))
        .arg(context.keys.log(user))
        .arg(context.keys.cursor(user));
}
