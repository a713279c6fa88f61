//! Renews the leases on this node's users, a little at a time.
//!
//! Each third of `--session-ttl`, or of `--log-ttl` where that is shorter, all users are renewed; the shards of the
//! registry spread that over the interval, so that neither Redis nor delivery meets a burst. Where Redis answers so late
//! that one shard's renewal takes longer than its share of the interval, those that are due by then are renewed together,
//! by two calls at once: a round takes no longer for that, as long as it can be helped. A user whose lease was lost is
//! registered anew; one of whose events a session has not heard by the next tick (a hint went astray) has its log looked
//! into.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use crate::acked::Confirmation;
use crate::engine::{LeaseState, MAX_BEATS, Unavailable, UserLease};
use crate::id::{EventId, UserId};
use crate::registry::{SHARDS, Unsaved};
use crate::router::Router;

/// How much quicker a round goes that cannot wait. What it costs Redis is as much more for as long.
const HURRY: u32 = 4;

/// Shards renewed together, at most, where the last took longer than their time. What is due beyond that is late: after a
/// process or a Redis that stood still, not everybody is renewed at once.
const MOST_SHARDS: usize = 8;
/// What one shard's renewal is spread over, at most: a hurry waits for its end.
const MOST_SPREAD: Duration = Duration::from_secs(1);
/// Users in a call, at least: an event that meets a call waits for all of it, at each of its steps.
const FEWEST: usize = 8;
/// Between calls that are spread, at least: with more users than [`FEWEST`] for each, each call has more, up to
/// [`MAX_BEATS`].
const BETWEEN: Duration = Duration::from_millis(4);
/// Calls at once where they are late: half of the default of `--redis-pool-size`, the other half is for events. Else one
/// after the other, so that an event waits for no more than one.
const AT_ONCE: usize = 2;

/// Between the calls that save what was acknowledged, and between those for pongs: so each take Redis a hundredth of its
/// time at most.
const SOON: Duration = Duration::from_millis(25);
/// How long pongs wait for others: all who get events have them, and many users in one call cost Redis half as much.
const GATHER: Duration = Duration::from_secs(1);

/// Users whose newest event a session had not heard of when their lease was renewed. Its hint may be on its way.
type Unheard = Vec<(UserId, EventId)>;

/// Renews for as long as the process lives, each user thrice within `shortest`. Each time `hurry` is notified, the next
/// round goes [`HURRY`] times as quick: a node has died, perhaps after it published and before it told anyone.
pub async fn run(router: Arc<Router>, shortest: Duration, hurry: Arc<Notify>) {
    let period = shortest / 3 / u32::try_from(SHARDS).unwrap_or(u32::MAX);
    let period = period.max(Duration::from_millis(1));
    let (mut hurried, mut unheard, mut shard) = (0_usize, Unheard::new(), 0);
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(next) => {}
            () = hurry.notified(), if hurried == 0 => (hurried, next) = (SHARDS, Instant::now()),
        }
        let pace = if hurried > 0 { period / HURRY } else { period };
        let (now, mut due) = (Instant::now(), 0);
        while next <= now && due < MOST_SHARDS {
            (next, due) = (next + pace, due + 1);
        }
        next = next.max(now);
        hurried = hurried.saturating_sub(due);
        let shards = (shard..shard + due).map(|shard| shard % SHARDS);
        shard = (shard + due) % SHARDS;
        if router.lease().is_held()
            && let Err(error) = renew(&router, shards, pace, &mut unheard).await
        {
            debug!(%error, "leases were not renewed; the next round tries again");
        }
    }
}

/// Saves what clients confirm, soon after: the lease of their user is renewed early. Those who get events do so with a pong
/// in each `--ping-interval`, and others cost nothing.
pub async fn save_acks(router: Arc<Router>) {
    tokio::join!(save(&router, Confirmation::Ack, SOON), save(&router, Confirmation::Pong, GATHER));
}

async fn save(router: &Router, by: Confirmation, gather: Duration) {
    let mut unheard = Unheard::new(); // for the next round of all leases to see
    let mut pause = gather;
    loop {
        router.acked().came(by).await;
        sleep(pause).await;
        let users = router.acked().take(by, MAX_BEATS);
        // More have gathered than one call takes.
        pause = if users.len() == MAX_BEATS { SOON } else { gather };
        let of_user = |user: UserId| router.registry().unsaved_of(&user).map(|unsaved| (user, unsaved));
        let unsaved: Vec<_> =
            users.into_iter().filter_map(of_user).filter(|(_, some)| !some.is_empty()).collect();
        if !unsaved.is_empty()
            && router.lease().is_held()
            && let Err(error) = renew_all(router, &unsaved, 1, Duration::ZERO, &mut unheard).await
        {
            debug!(%error, "what was acknowledged was not saved; the next round of leases tries again");
        }
        unheard.clear();
    }
}

/// Renews the leases on some shards' users, spread over `pace` where it is one; looks for what is still unheard of since the
/// last time.
async fn renew(
    router: &Router,
    shards: impl ExactSizeIterator<Item = usize>,
    pace: Duration,
    unheard: &mut Unheard,
) -> Result<(), Unavailable> {
    for (user, newest) in unheard.drain(..) {
        router.registry().each_of(user.as_str(), |session| session.look_for(newest));
    }
    let (at_once, pace) =
        if shards.len() > 1 { (AT_ONCE, Duration::ZERO) } else { (1, pace.min(MOST_SPREAD)) };
    let users: Vec<_> = shards.flat_map(|shard| router.registry().unsaved(shard)).collect();
    renew_all(router, &users, at_once, pace, unheard).await
}

/// How many of so many `users` go into each of the calls that are spread over `pace`.
fn users_in_a_call(users: usize, pace: Duration) -> usize {
    let most_calls = usize::try_from(pace.as_nanos() / BETWEEN.as_nanos()).unwrap_or(usize::MAX);
    users.div_ceil(most_calls.max(1)).clamp(FEWEST, MAX_BEATS)
}

/// Renews the leases on these users, and saves what their sessions have confirmed. The calls for that are spread over `pace`:
/// one right after the other, they would be in the way of each event that comes meanwhile, at each of its steps, and so
/// would be a call of many.
async fn renew_all(
    router: &Router,
    users: &[(UserId, Unsaved)],
    at_once: usize,
    pace: Duration,
    unheard: &mut Unheard,
) -> Result<(), Unavailable> {
    let of_call = users_in_a_call(users.len(), pace);
    let calls = u32::try_from(users.len().div_ceil(of_call)).unwrap_or(u32::MAX).max(1);
    let (began, pause) = (Instant::now(), pace / calls);
    let call = |(at, chunk): (u32, &'_ [(UserId, Unsaved)])| {
        let lease = |(user, unsaved): &(UserId, Unsaved)| UserLease {
            user: user.clone(),
            confirmed: unsaved.iter().map(|(session, id)| (session.client.clone(), *id)).collect(),
        };
        let renewed = router.engine().heartbeat(chunk.iter().map(lease).collect());
        async move {
            sleep_until(began + pause * at).await;
            renewed.await
        }
    };
    let calls = (0..).zip(users.chunks(of_call)).map(call);
    let mut states = stream::iter(calls).buffered(at_once);
    let (mut outcome, mut anew) = (Ok(()), Vec::new());
    for chunk in users.chunks(of_call) {
        let states = match states.next().await {
            Some(Ok(states)) => states,
            Some(Err(error)) => {
                outcome = Err(error);
                break;
            }
            None => break,
        };
        for ((user, unsaved), state) in chunk.iter().zip(states) {
            match state {
                LeaseState::Renewed { newest, lost } => {
                    unsaved.iter().for_each(|(session, id)| session.saved(*id));
                    if !all_hear(router, user, newest, lost) {
                        unheard.push((user.clone(), newest));
                    }
                }
                LeaseState::Unknown => {} // the next round tries again
                LeaseState::Lost => anew.extend(registers_anew(router, user).then_some(user)),
            }
        }
    }
    if let Some(user) = anew.first() {
        warn!(users = anew.len(), %user, "leases on users were lost: their sessions register anew");
    }
    outcome
}

/// Whether all sessions of a user have heard of their newest event. Those that do not know of what was lost before `lost`
/// look into the log.
fn all_hear(router: &Router, user: &UserId, newest: EventId, lost: EventId) -> bool {
    let mut all_heard = true;
    router.registry().each_of(user.as_str(), |session| {
        all_heard &= session.has_heard(newest);
        session.look_for_lost(lost);
    });
    all_heard
}

/// Has all sessions of a user whose lease was lost register anew; false where there is none. Then they have gone
/// meanwhile, and the lease with them. Who is not registered yet begins another lease.
fn registers_anew(router: &Router, user: &UserId) -> bool {
    let mut any = false;
    router.registry().each_of(user.as_str(), |session| {
        if session.order() != 0 {
            session.look();
            any = true;
        }
    });
    any
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read, pipe};

    use futures_util::FutureExt;

    use super::*;
    use crate::engine::{Disconnect, Event};
    use crate::handle::{Handle, Outgoing, Signal};
    use crate::id::Logged;
    use crate::protocol::hello::Identity;
    use crate::router::Registered;
    use crate::router::tests::router;

    const SESSION_TTL: Duration = Duration::from_secs(192);
    const ROUND: Duration = Duration::from_secs(64);
    const USERS: usize = 300;

    async fn users(router: &Arc<Router>) -> Vec<Registered> {
        let mut users = Vec::new();
        for user in 0..USERS {
            let client = "c".parse().unwrap();
            let identity = Identity { user: user.to_string().parse().unwrap(), client, since: None };
            let (registered, _) = router.open(identity).await.unwrap_or_else(|_| panic!("refused"));
            users.push(registered);
        }
        users
    }

    /// How many users have been renewed since they confirmed something, which is now.
    async fn renewed_within(span: Duration, users: &[Registered]) -> usize {
        for user in users {
            let confirmed = user.handle().confirmed().unwrap_or_default();
            user.handle().confirm(EventId { ms: confirmed.ms + 1, ..confirmed });
        }
        sleep(span).await;
        saved(users)
    }

    /// Of how many nothing is left to save.
    fn saved(users: &[Registered]) -> usize {
        users.iter().filter(|user| user.handle().unsaved().is_none()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_takes_its_time_unless_a_node_has_died() {
        let (router, hurry) = (router(), Arc::new(Notify::new()));
        let users = users(&router).await;
        tokio::spawn(run(router.clone(), SESSION_TTL, hurry.clone()));
        let quarter = renewed_within(ROUND / 4, &users).await;
        assert!((USERS / 8..USERS / 2).contains(&quarter), "{quarter} of {USERS} in a quarter of a round");
        hurry.notify_one();
        assert_eq!(renewed_within(ROUND / 4 + Duration::from_secs(1), &users).await, USERS);
        let quarter = renewed_within(ROUND / 4, &users).await;
        assert!((USERS / 8..USERS / 2).contains(&quarter), "{quarter} of {USERS} after the hurry");
        assert_eq!(renewed_within(ROUND + Duration::from_secs(1), &users).await, USERS);
    }

    #[test]
    fn a_call_has_few_users_unless_there_is_no_time() {
        let pace = 100 * BETWEEN;
        for (users, pace, in_a_call) in [
            (100, pace, FEWEST),
            (100 * FEWEST, pace, FEWEST),
            (100 * FEWEST + 1, pace, FEWEST + 1),
            (100 * MAX_BEATS, pace, MAX_BEATS),
            (1_000_000, pace, MAX_BEATS),
            (300, Duration::ZERO, MAX_BEATS),
        ] {
            assert_eq!(users_in_a_call(users, pace), in_a_call, "{users} in {pace:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_spread_where_there_is_time() {
        let router = router();
        let users = users(&router).await;
        assert_eq!(renewed_within(Duration::ZERO, &users).await, 0);
        let all: Vec<_> = (0..SHARDS).flat_map(|shard| router.registry().unsaved(shard)).collect();
        let (mut unheard, spread) = (Unheard::new(), Duration::from_secs(10));
        let mut renewal = std::pin::pin!(renew_all(&router, &all, 1, spread, &mut unheard));
        assert!(tokio::time::timeout(spread / 2, &mut renewal).await.is_err());
        assert!((USERS / 3..2 * USERS / 3).contains(&saved(&users)), "{}", saved(&users));
        renewal.await.unwrap();
        assert_eq!(saved(&users), USERS);
    }

    #[tokio::test(start_paused = true)]
    async fn acks_are_saved_at_once_and_pongs_together() {
        const ACKS: usize = 10;
        let router = router();
        let users = users(&router).await;
        tokio::spawn(save_acks(router.clone()));
        for user in &users[..ACKS] {
            router.acked().add(user.user(), Confirmation::Ack);
        }
        assert_eq!(renewed_within(2 * SOON, &users).await, ACKS);
        // Pongs that come one by one, without a pause.
        let (mut times, mut before) = (0, ACKS);
        for user in &users[ACKS..] {
            router.acked().add(user.user(), Confirmation::Pong);
            sleep(Duration::from_millis(10)).await;
            let now = saved(&users);
            times += usize::from(now > before);
            before = now;
        }
        // 290 of them in 2.9 s: a hundred a second, and 32 in a call.
        assert!((6..=12).contains(&times), "{before} saved in {times} calls");
        sleep(2 * GATHER).await;
        assert_eq!(saved(&users), USERS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_may_come_until_the_next_tick() {
        let router = router();
        let users = users(&router).await;
        for user in &users {
            user.handle().caught_up(EventId::ZERO);
            router.engine().publish(Event::of_tests(user.user().as_str(), "1")).await.unwrap();
        }
        let next = |user: &UserId| {
            let user = users.iter().find(|known| known.user() == user).unwrap();
            poll_fn(|cx| user.handle().poll(cx)).now_or_never()
        };
        let (mut unheard, mut on_time, mut astray) = (Unheard::new(), Vec::new(), Vec::new());
        for shard in 0..SHARDS {
            renew(&router, shard..shard + 1, Duration::ZERO, &mut unheard).await.unwrap();
            for (at, (user, newest)) in unheard.iter().enumerate() {
                assert_eq!(next(user), None, "its hint may be on its way");
                if at % 2 == 1 {
                    astray.push(user.clone());
                    continue;
                }
                on_time.push(user.clone());
                let hint =
                    Outgoing { logged: Some(Logged { id: *newest, prev: EventId::ZERO }), frame: None };
                router.registry().each_of(user.as_str(), |session| session.push(&hint, 8));
            }
        }
        renew(&router, 0..1, Duration::ZERO, &mut unheard).await.unwrap();
        assert_eq!(on_time.len() + astray.len(), USERS);
        assert!(on_time.iter().all(|user| next(user) == Some(Signal::Send)));
        assert!(astray.iter().all(|user| next(user) == Some(Signal::CatchUp)), "the log is looked into");
    }

    #[tokio::test]
    async fn whose_leases_were_lost_register_anew_which_is_told_once() {
        let router = router();
        let users = users(&router).await;
        for user in &users {
            let (user, client) = (user.user().clone(), user.client().clone());
            router.engine().disconnect(Disconnect { user, client, confirmed: None }).await.unwrap();
        }
        let is_up_to_date = |handle: &Handle| handle.caught_up(EventId::ZERO);
        assert!(users.iter().all(|user| is_up_to_date(user.handle())));
        // Its user had gone, and is just coming back.
        let comes = Arc::new(Handle::new("back".parse().unwrap(), "c".parse().unwrap()));
        router.registry().insert(comes.clone());
        let all: Vec<_> = users.iter().map(|user| user.user()).chain([&comes.user]).collect();
        let all: Vec<_> = all.into_iter().map(|user| (user.clone(), Unsaved::new())).collect();

        let (mut log, writer) = pipe().unwrap();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(Arc::new(writer)).finish();
        let guard = tracing::subscriber::set_default(subscriber);
        renew_all(&router, &all, 1, Duration::ZERO, &mut Unheard::new()).await.unwrap();
        drop(guard);
        let mut lines = String::new();
        log.read_to_string(&mut lines).unwrap();
        assert_eq!(lines.matches("were lost").count(), 1, "{lines}");
        assert!(lines.contains("users=300"), "{lines}");
        assert!(!users.iter().any(|user| is_up_to_date(user.handle())));
        assert!(is_up_to_date(&comes));
    }
}
