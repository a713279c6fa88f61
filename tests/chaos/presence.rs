//! Who is online, as Redis tells it: the `presence` stream edge by edge, and each user's set.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::crew::Crew;
use crate::ledger::{Gaps, Verdict};
use crate::support::Db;

/// Edges and sets are right a moment after the sockets are.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the stream has told so far.
#[derive(Debug, Default)]
pub struct Presence {
    last: Option<String>,
    online: BTreeMap<String, bool>,
    /// Of whom it has told in this phase that they went offline.
    offline: BTreeSet<String>,
}

impl Presence {
    /// Every edge once, in turn; at the end everybody is online, where their sessions are.
    pub async fn check(&mut self, crew: &Crew, gaps: &Gaps, verdict: &mut Verdict) {
        let mut db = crew.stage.redis.db().await;
        if *gaps == Gaps::All {
            *self = Self::default(); // the stream went with the rest
        }
        self.offline.clear();
        let end = Instant::now() + PATIENCE;
        loop {
            verdict.strange.extend(self.read(&mut db).await);
            let wrong = self.wrong(crew, &mut db).await;
            if wrong.is_empty() {
                return;
            }
            if Instant::now() >= end {
                return verdict.strange.extend(wrong);
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn read(&mut self, db: &mut Db) -> Vec<String> {
        let mut strange = Vec::new();
        let from = self.last.clone().map_or("-".to_owned(), |last| format!("({last}"));
        for entry in db.stream_from("presence", &from).await {
            let (user, online) = (entry.get("user").to_owned(), entry.get("state") == "online");
            if !online {
                self.offline.insert(user.clone());
            }
            let before = self.online.insert(user.clone(), online).unwrap_or_default();
            if before == online {
                strange.push(format!(
                    "presence says {} twice of {user}, at {}",
                    entry.get("state"),
                    entry.id
                ));
            }
            self.last = Some(entry.id);
        }
        strange
    }

    async fn wrong(&self, crew: &Crew, db: &mut Db) -> Vec<String> {
        let mut wanted: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for client in &crew.clients {
            let (user, at) = client.session;
            wanted.entry(user).or_default().insert(format!("c{at}@{}", client.node()));
        }
        let fought: BTreeSet<_> = crew.intruders.iter().map(|client| client.session).collect();
        // Nobody's set was there: an edge that is missing on both sides is missing all the same.
        let untold =
            crew.offline.iter().map(|user| format!("u{user}")).filter(|name| !self.offline.contains(name));
        let mut wrong: Vec<_> =
            untold.map(|name| format!("presence has not told that {name} went offline")).collect();
        for (user, mut wanted) in wanted {
            let name = format!("u{user}");
            let mut members = db.members(&format!("user:{name}")).await;
            let of_fight = |member: &String| {
                fought.iter().any(|(its, at)| *its == user && member.starts_with(&format!("c{at}@")))
            };
            wanted.retain(|member| !of_fight(member));
            members.retain(|member| !of_fight(member));
            if members != wanted {
                wrong.push(format!("user:{name} is {members:?}, not {wanted:?}"));
            }
            if self.online.get(&name) != Some(&true) {
                wrong.push(format!("{name} is not online by the presence stream"));
            }
        }
        wrong
    }
}
