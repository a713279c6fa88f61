//! One process's share of a run: a single thread that connects, publishes and counts, step by step as the process that
//! started it says.
//!
//! The two speak in lines. Here come `connect`, `go` and nothing else, and after the last of them nothing but the end of
//! the pipe, which ends this process at whatever step it is; there go [`Told`]s as JSON.

use std::cell::RefCell;
use std::io::{BufRead, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use super::load::{Count, Load, Spread, histogram};
use super::plan::{Pace, Plan};
use super::publisher::Publisher;
use super::session::Session;
use crate::settings::redis::Redis;

/// Nothing arrives for so long after the last publish: what has not come is lost. What a node that died had taken over
/// comes when its lease has lapsed and another has noticed: 10 s and 3 s, unless it was set otherwise.
const PATIENCE: Duration = Duration::from_secs(15);
/// Steps that may wait to be done. The starter says no more of them; one that says more is not heard.
const STEPS: usize = 4;
/// Bytes of one read: several hundred events of a burst.
const SCRATCH: usize = 64 * 1024;

/// What a share tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// It is there.
    Ready,
    /// All sockets are, or have failed.
    Connected {
        /// Registered sessions.
        sockets: usize,
        /// Others.
        failed: usize,
        /// Until the last of those that got in.
        seconds: f64,
        /// The first trouble.
        trouble: Option<String>,
    },
    /// The measured part begins.
    Measuring,
    /// It is over. Some may still be on its way.
    Measured,
    /// So many are delivered, and so many sessions there are.
    Progress(u64, usize),
    /// All is over.
    Done(Box<Count>),
    /// It cannot go on.
    Failed(String),
}

fn tell(told: &Told) {
    let mut line = serde_json::to_vec(told).unwrap_or_default();
    line.push(b'\n');
    // A starter that does not listen has gone, and this process ends with its pipe.
    let _ = std::io::stdout().lock().write_all(&line);
}

/// Does share number `share` of a plan; `run` tells its sessions and events from those of other runs.
///
/// # Errors
/// Where no runtime can be had.
pub fn serve(plan: Plan, share: usize, run: String, redis: Option<Redis>) -> std::io::Result<()> {
    let asked = hear();
    let load = Load::new(plan, share, run).map_err(std::io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async move {
        if let Err(reason) = steps(Rc::new(load), asked, redis).await {
            tell(&Told::Failed(reason));
        }
    });
    Ok(())
}

/// Hears what the starter says, on a thread beside the steps: one that was killed says nothing, but its end of the pipe
/// closes, and no load must go on that nobody measures and nobody can stop.
fn hear() -> mpsc::Receiver<String> {
    let (step, asked) = mpsc::channel(STEPS);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            let _ = step.try_send(line);
        }
        std::process::exit(1);
    });
    asked
}

async fn steps(
    load: Rc<Load>,
    mut asked: mpsc::Receiver<String>,
    redis: Option<Redis>,
) -> Result<(), String> {
    tell(&Told::Ready);
    wait_for(&mut asked, "connect").await?;
    connect(&load).await;
    let mut publisher = match load.plan.pace {
        Pace::Idle => None,
        _ => Some(Publisher::open(load.clone(), redis.as_ref()).await?),
    };
    wait_for(&mut asked, "go").await?;
    let progress = tokio::task::spawn_local(tell_progress(load.clone()));
    // Measuring begins even where all is published and seen before: the starter waits for both.
    let begin = async {
        sleep(if load.plan.pace == Pace::Idle { Duration::ZERO } else { load.plan.warm_up }).await;
        tell(&Told::Measuring);
        sleep(load.plan.duration).await;
        tell(&Told::Measured);
        Ok(())
    };
    let work = async {
        match &mut publisher {
            Some(publisher) => {
                let broke = |error| format!("a connection that publishes broke: {error}");
                publisher.run().await.map_err(broke)?;
            }
            None => {
                load.from_ns.set(load.now_ns());
                sleep(load.plan.duration).await;
            }
        }
        drain(&load).await;
        if let Some(publisher) = &publisher {
            publisher.finish();
        }
        load.give_up();
        Ok::<_, String>(())
    };
    tokio::try_join!(begin, work)?;
    progress.abort();
    load.over.set(true);
    tell(&Told::Done(Box::new(count(&load))));
    // The sockets stay until memory has been read; then this process is ended, and they with it.
    std::future::pending().await
}

async fn wait_for(asked: &mut mpsc::Receiver<String>, step: &str) -> Result<(), String> {
    match asked.recv().await {
        Some(said) if said == step => Ok(()),
        _ => Err(format!("the process that started this one did not say `{step}`")),
    }
}

async fn connect(load: &Rc<Load>) {
    let start_ns = load.now_ns();
    let turn = Rc::new(Semaphore::new(load.plan.connecting));
    let scratch = Rc::new(RefCell::new(vec![0; SCRATCH]));
    let sessions = load.users.len() * load.plan.sessions;
    for number in 0..sessions {
        tokio::task::spawn_local(Session::new(load.clone(), number, scratch.clone()).run(turn.clone()));
    }
    let mut told = Instant::now();
    // One that broke again has got in all the same.
    while load.entered.get() as usize + load.failed.get() < sessions {
        sleep(Duration::from_millis(2)).await;
        if told.elapsed() > Duration::from_secs(1) {
            told = Instant::now();
            tell(&Told::Progress(0, load.registered.get()));
        }
    }
    tell(&Told::Connected {
        sockets: load.registered.get(),
        failed: load.failed.get(),
        seconds: Duration::from_nanos(load.entered_ns.get().saturating_sub(start_ns)).as_secs_f64(),
        trouble: load.count.borrow().trouble.clone(),
    });
}

async fn tell_progress(load: Rc<Load>) {
    loop {
        sleep(Duration::from_secs(1)).await;
        tell(&Told::Progress(load.count.borrow().delivered, load.registered.get()));
    }
}

/// Waits for what is still on its way, and for answers.
async fn drain(load: &Load) {
    load.low.set(0);
    load.await_all();
    while load.on_their_way() > 0 || load.awaited.get() > 0 {
        let so_far = || (load.count.borrow().delivered, load.awaited.get());
        let before = so_far();
        let last = timeout(PATIENCE, load.moved.notified()).await;
        if last.is_err() && so_far() == before {
            return;
        }
    }
}

fn count(load: &Load) -> Count {
    let mut count = Count {
        lost: load.lost(),
        latencies: spread(&load.latencies.borrow()),
        answers: spread(&load.answers.borrow()),
        returns: spread(&load.returns.borrow()),
        ..load.count.borrow().clone()
    };
    for ledger in load.ledgers.borrow().iter().flatten() {
        count.duplicated += ledger.duplicated;
        count.out_of_order += ledger.out_of_order;
    }
    count
}

fn spread(histogram: &Histogram<u64>) -> Spread {
    histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
}

/// The spreads of all shares as one histogram.
///
/// # Errors
/// Never: the bounds are fixed.
pub fn merged<'a>(
    spreads: impl Iterator<Item = &'a Spread>,
) -> Result<Histogram<u64>, hdrhistogram::CreationError> {
    let mut merged = histogram()?;
    for (micros, count) in spreads.flatten() {
        merged.saturating_record_n(*micros, *count);
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::Via;

    /// Two users with two sessions each, of which the last does not get in; what is published counts from 1 s on.
    fn load() -> Load {
        let node = [("client-url", "ws://127.0.0.1:1"), ("worker-url", "ws://127.0.0.1:2")];
        let flags = [("users", "2"), ("sessions", "2"), ("duration", "10s"), node[0], node[1]];
        let value = |name: &str| Some(flags.iter().find(|(flag, _)| *flag == name)?.1.to_owned());
        let load = Load::new(Plan::read(&value, 1000).unwrap(), 0, "run".to_owned()).unwrap();
        (0..3).for_each(|session| load.enter(session));
        load.from_ns.set(1_000_000_000);
        load
    }

    #[test]
    fn rates_are_those_of_the_whole_measured_part() {
        let load = load();
        [0, 1, 0].iter().for_each(|user| _ = load.number(*user));
        // What was due before it and what went out after it: it counts when that happened.
        for (events, now_ns) in
            [(1, 999_999_999), (2, 1_000_000_000), (4, 10_999_999_999), (8, 11_000_000_000)]
        {
            load.handed_over(events, now_ns, now_ns, "a reason");
        }
        load.deliver(0, 1, 2_000_000_000, 3_000_000_000);
        let counted = count(&load);
        assert_eq!((counted.published, counted.published_measured), (3, 6), "however few sockets there are");
        assert_eq!((counted.measured, counted.trouble), (1, None));
        // Published before it, and costs in it; published in it, and came after it.
        load.deliver(2, 0, 999_999_999, 10_999_999_999);
        load.deliver(1, 1, 2_000_000_000, 11_000_000_000);
        let latencies = load.latencies.borrow().len();
        assert_eq!((count(&load).measured, latencies), (2, 2));
        load.handed_over(1, 2_000_000_000, 3_500_000_000, "a reason");
        assert_eq!(count(&load).trouble.as_deref(), Some("an event waited 1500 ms for a reason"));
    }

    #[test]
    fn nothing_is_lost_that_was_refused_or_had_nowhere_to_go() {
        let load = load();
        let numbers: Vec<u64> = [0, 1, 0, 1].map(|user| load.number(user)).to_vec();
        assert_eq!((numbers, load.on_their_way()), (vec![0, 0, 1, 1], 6), "three sessions, two events each");
        (0..3).for_each(|session| load.deliver(session, 0, 0, 0));
        assert_eq!((count(&load).lost, load.on_their_way()), (3, 3));
        load.deliver(3, 0, 0, 0);
        assert_eq!(count(&load).delivered, 3, "to one that is not there");
        (0..2).for_each(|_| load.refuse(None, b"no"));
        assert_eq!((count(&load).lost, count(&load).refused, load.on_their_way()), (0, 2, 0), "on average");
    }

    #[test]
    fn what_was_given_up_takes_no_place_when_it_comes_all_the_same() {
        let load = load();
        (0..3).for_each(|_| _ = load.number(1));
        load.forgive();
        assert_eq!(load.on_their_way(), 0);
        let later_ns = load.now_ns() + 1;
        (0..2).for_each(|_| _ = load.number(1));
        (0..3).for_each(|number| load.deliver(2, number, 0, later_ns));
        assert_eq!(load.on_their_way(), 2, "they are waited for");
        (3..5).for_each(|number| load.deliver(2, number, later_ns, later_ns));
        assert_eq!(load.on_their_way(), 0);
    }

    #[test]
    fn a_refusal_excuses_the_sessions_of_its_user_and_no_others() {
        let load = load();
        (0..3).for_each(|_| _ = load.number(1));
        load.number(0);
        // User 1 has one socket and sees one event of three: one was refused, one is lost.
        load.deliver(2, 0, 0, 0);
        load.refuse(Some(1), b"no");
        assert_eq!((count(&load).lost, load.on_their_way()), (3, 3), "and the one of user 0, by two");
        load.refuse(Some(0), b"no");
        assert_eq!((count(&load).lost, load.on_their_way()), (1, 1));
    }

    #[test]
    fn what_others_say_is_told_on_one_line() {
        let load = load();
        load.refuse(None, b"no\n\x1b[2J");
        assert_eq!(count(&load).trouble.as_deref(), Some(r"an event was refused: no\n\u{1b}[2J"));
    }

    #[test]
    fn what_is_not_answered_was_refused_but_by_a_workers_socket() {
        for (via, refused) in [(Via::Http, 2), (Via::Worker, 0)] {
            let mut load = load();
            load.plan.via = via;
            (0..3).for_each(|_| load.ask(1));
            load.answered(1, 0);
            load.give_up();
            assert_eq!((count(&load).refused, count(&load).unanswered), (refused, 2));
        }
    }

    #[test]
    fn shares_add_up_to_what_one_would_have_measured() {
        let mut halves = [histogram().unwrap(), histogram().unwrap()];
        let mut whole = histogram().unwrap();
        for micros in 1..=10_000 {
            halves[usize::from(micros % 2 == 0)].record(micros).unwrap();
            whole.record(micros).unwrap();
        }
        let spreads = halves.map(|half| spread(&half));
        let merged = merged(spreads.iter()).unwrap();
        for quantile in [0.0, 0.5, 0.99, 0.999, 1.0] {
            assert_eq!(merged.value_at_quantile(quantile), whole.value_at_quantile(quantile), "{quantile}");
        }
    }
}
