//! Redis throws keys away: an inbox, a group, logs, leases, sets.

use std::time::Duration;

use redis::cmd;
use tokio::time::sleep;

use crate::clients::Order;
use crate::crew::Crew;
use crate::ledger::Gaps;

/// Users whose log goes while a session of theirs is away: those alone may be told of a gap.
const LOSERS: usize = 5;
/// Users each of whose other keys goes.
const OTHERS: usize = 10;

/// What is gone is made anew; nobody is told that nothing is missing where something is.
pub async fn happen(crew: &mut Crew) -> Gaps {
    let mut db = crew.stage.redis.db().await;
    let node = crew.rng.usize(..crew.stage.size()) + 1;
    db.run::<i64>(cmd("DEL").arg(format!("inbox:{{node:n{node}}}"))).await;
    sleep(Duration::from_millis(300)).await;
    // Entries that wait for the reader stay; what was routed is known by its id.
    db.run::<i64>(cmd("XGROUP").arg("DESTROY").arg("events").arg("switchboard")).await;
    let mut users: Vec<usize> = (0..crew.scale.users).collect();
    crew.rng.shuffle(&mut users);
    let mut users = users.into_iter();
    let losers: Vec<usize> = users.by_ref().take(LOSERS).collect();
    for client in &crew.clients {
        if losers.contains(&client.session.0) && client.session.1 == 0 {
            client.order(Order::Away(Duration::from_millis(2500)));
        }
    }
    for (before, after) in [("user:", ""), ("nodes:{user:", "}"), ("cursor:{user:", "}")] {
        for user in users.by_ref().take(OTHERS) {
            db.run::<i64>(cmd("DEL").arg(format!("{before}u{user}{after}"))).await;
        }
        sleep(Duration::from_millis(300)).await;
    }
    sleep(Duration::from_millis(1000)).await;
    for user in &losers {
        db.run::<i64>(cmd("DEL").arg(format!("log:{{user:u{user}}}"))).await;
    }
    crew.stage.healed();
    Gaps::Of(losers)
}
