//! Notices that other nodes have died, by the list of nodes alone: each node sees it, whoever clears up.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::reply;
use crate::engine::Unavailable;
use crate::lock::lock;
use crate::retold::Retold;

/// When each node's lease ends, Unix ms; by their ids.
pub type Leases = BTreeMap<String, i64>;

/// Reads the list of nodes with its scores.
///
/// # Errors
/// Where it has another shape.
pub fn leases(list: Value) -> Result<Leases, Unavailable> {
    let mut items = reply::array(list)?.into_iter();
    let mut leases = Leases::new();
    while let (Some(node), Some(end)) = (items.next(), items.next()) {
        let end: f64 =
            reply::text(&end)?.parse().map_err(|_| Unavailable::new("a lease's end is no number"))?;
        leases.insert(reply::text(&node)?.to_owned(), end as i64);
    }
    Ok(leases)
}

/// Looks at the list that all nodes take in a second: each reads all of it. With more nodes each looks less often, and those
/// who look first clear up.
const LOOKS: u32 = 100;

/// What is known of other nodes' deaths.
#[derive(Default)]
pub struct Deaths {
    /// The leases that were held when the list was last looked at.
    held: Mutex<Leases>,
    /// When it is time for the next look.
    next: Mutex<Option<Instant>>,
    /// The dead after whom this node could not clear up to the end, for as long as they are listed.
    unfinished: Mutex<HashMap<String, Unfinished>>,
}

/// It is tried again with each look, for as long as a master of a Cluster is away.
#[derive(Default)]
struct Unfinished {
    begun: bool,
    failures: Retold,
}

impl Deaths {
    /// Whether it is too soon for another look.
    pub fn rests(&self) -> bool {
        lock(&self.next).is_some_and(|next| Instant::now() < next)
    }

    /// Whether a lease that was held has run out since: it is listed as lapsed; or somebody has taken it off the list
    /// after its end; or it was taken anew by then, by a process that came after. Who leaves takes itself off before.
    pub fn look(&self, leases: Leases, now: i64, ttl_ms: u64) -> bool {
        if let Ok(nodes @ LOOKS..) = u32::try_from(leases.len()) {
            // It ends with a beat, of which there is one a second, or three in a lease. Beyond a lease less one of these,
            // who renews in time could not be told from who began anew; so all together it is half a lease at most.
            let longest = (Duration::from_millis(ttl_ms) / 2).saturating_sub(Duration::from_secs(1));
            let pause = (Duration::from_secs(1) * nodes / LOOKS).min(longest);
            *lock(&self.next) = Some(Instant::now() + pause);
        }
        let ttl = i64::try_from(ttl_ms).unwrap_or(i64::MAX);
        let mut held = lock(&self.held);
        let died = held.iter().any(|(node, old)| {
            *old <= now && leases.get(node).is_none_or(|end| *end <= now || end.saturating_sub(ttl) > *old)
        });
        lock(&self.unfinished).retain(|node, _| leases.get(node).is_some_and(|end| *end <= now));
        *held = leases.into_iter().filter(|(_, end)| *end > now).collect();
        died
    }

    /// Clearing up after a node begins; false where it was begun before, and did not come to its end.
    pub fn begins(&self, node: &str) -> bool {
        !std::mem::replace(&mut lock(&self.unfinished).entry(node.to_owned()).or_default().begun, true)
    }

    /// It has come to its end.
    pub fn finished(&self, node: &str) {
        lock(&self.unfinished).remove(node);
    }

    /// It failed: how often since that was told last, where it is time to tell it.
    pub fn failed(&self, node: &str) -> Option<u64> {
        lock(&self.unfinished).entry(node.to_owned()).or_default().failures.again()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: u64 = 10;

    fn list(leases: &[(&str, i64)]) -> Leases {
        leases.iter().map(|(node, end)| ((*node).to_owned(), *end)).collect()
    }

    #[test]
    fn a_lease_that_ran_out_is_a_death_however_it_is_seen() {
        let lapsed = list(&[("a", 25), ("b", 12)]);
        let cleared_up = list(&[("a", 25)]);
        let taken_anew = list(&[("a", 25), ("b", 24)]);
        for seen in [lapsed, cleared_up, taken_anew] {
            let deaths = Deaths::default();
            assert!(!deaths.look(list(&[("a", 11), ("b", 12)]), 2, TTL), "both live");
            assert!(deaths.look(seen.clone(), 15, TTL), "{seen:?}");
            assert!(!deaths.look(seen, 16, TTL), "it is told once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_nodes_look_less_often() {
        let of = |nodes: i64| (0..nodes).map(|node| (node.to_string(), 20_000)).collect::<Leases>();
        for (nodes, rests_ms) in [(99, 0), (100, 1_000), (300, 3_000), (5_000, 4_000)] {
            let deaths = Deaths::default();
            deaths.look(of(nodes), 10_000, 10_000);
            let begun = Instant::now();
            while deaths.rests() {
                tokio::time::advance(Duration::from_millis(500)).await;
            }
            assert_eq!(begun.elapsed(), Duration::from_millis(rests_ms), "{nodes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_nodes_with_short_leases_none_seems_to_have_died() {
        for ttl in [2_000, 3_000, 4_000, 10_000] {
            let (deaths, begun) = (Deaths::default(), Instant::now());
            let beat = (ttl / 3).min(1_000) + 1; // timers are late
            for _ in 0..200 {
                let now = 1_000_000 + i64::try_from(begun.elapsed().as_millis()).unwrap();
                let renewed = |node: i64| now - (now + node * 5) % beat;
                let leases = (0..200).map(|node| (node.to_string(), renewed(node) + ttl)).collect();
                assert!(
                    deaths.rests() || !deaths.look(leases, now, ttl.unsigned_abs()),
                    "leases of {ttl} ms"
                );
                tokio::time::advance(Duration::from_millis(beat.unsigned_abs() + 1)).await;
            }
        }
    }

    #[test]
    fn who_renews_in_time_or_leaves_has_not_died() {
        let deaths = Deaths::default();
        deaths.look(list(&[("a", 11), ("b", 12)]), 2, TTL);
        assert!(!deaths.look(list(&[("b", 16)]), 8, TTL), "a has left, before its lease ended");
        assert!(!deaths.look(list(&[("b", 24)]), 17, TTL), "b was renewed at 14, before 16");
    }
}
