//! Publishes: at a rate, whatever comes of it, or as fast as a bounded window allows.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::timeout;

use super::event;
use super::feed::Feed;
use super::http;
use super::load::Load;
use super::pacer::Pacer;
use super::plan::{Pace, Via};
use super::worker::Worker;
use crate::settings::redis::Redis;

/// Events of one write: more would keep the readers of this thread waiting.
const BURST: u64 = 128;
/// Bytes of one write, unless a single event has more: so many may wait for each connection that publishes,
/// and a burst more.
pub const BURST_BYTES: usize = 64 << 20;
/// Nothing moved for so long: what is on its way is taken for lost, and the window opens again.
const STUCK: Duration = Duration::from_secs(2);

/// An event, ready to be published.
pub struct Ready<'a> {
    /// Its user's number.
    pub user: usize,
    /// What its answer refers to, where that has to tell: its user's number within the share, and when it was due.
    pub answered: Option<(usize, u64)>,
    /// JSON text: `"event":"bench","data":{...}`.
    pub fields: &'a [u8],
}

/// The ways in.
enum Way {
    Worker(Vec<Rc<Worker>>),
    Http(http::Pool),
    Xadd(Feed),
}

/// Publishes for one share.
pub struct Publisher {
    load: Rc<Load>,
    way: Way,
    /// Fills an event's data up to its size.
    padding: Vec<u8>,
    fields: Vec<u8>,
    frame: Vec<u8>,
    /// Events of one write.
    burst: u64,
    /// By a worker's socket, every event is answered: it was asked for, or a refusal has to say whose it is, because not
    /// every user has as many sockets.
    answers: bool,
    next_user: usize,
}

impl Publisher {
    /// Opens what is published through.
    ///
    /// # Errors
    /// Where a node, or Redis, does not let it in: which, and why.
    pub async fn open(load: Rc<Load>, redis: Option<&Redis>) -> Result<Self, String> {
        let plan = &load.plan;
        let way = match plan.via {
            Via::Worker => {
                let mut workers = Vec::new();
                // Publisher `at` belongs to node `at % nodes`: a user's events keep to one, and so their order.
                for at in 0..plan.publishers * plan.workers.len() {
                    workers.push(Worker::open(&load, &plan.workers[at % plan.workers.len()]).await?);
                }
                Way::Worker(workers)
            }
            Via::Http => Way::Http(http::Pool::open(&load).await?),
            Via::Xadd => {
                let redis = redis.ok_or("--via xadd needs --redis-url")?;
                Way::Xadd(Feed::open(&load, redis).await?)
            }
        };
        Ok(Self {
            padding: vec![b'x'; plan.payload],
            fields: Vec::with_capacity(plan.payload + 64),
            frame: Vec::with_capacity(plan.payload + 256),
            burst: burst(plan.payload),
            answers: plan.via == Via::Worker && (plan.answers || !load.is_even()),
            next_user: 0,
            load,
            way,
        })
    }

    /// Publishes for the plan's warm-up and duration.
    ///
    /// # Errors
    /// Where the system gives it no timer.
    pub async fn run(&mut self) -> io::Result<()> {
        let load = self.load.clone();
        let start_ns = load.now_ns();
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let from_ns = start_ns + ns(load.plan.warm_up);
        let end_ns = from_ns + ns(load.plan.duration);
        load.from_ns.set(from_ns);
        match load.plan.pace {
            Pace::Idle => tokio::time::sleep(load.plan.duration).await,
            Pace::Rate(rate) => {
                let part = |users: usize| users as f64 / load.plan.users as f64;
                // Shares take turns: all together they are as regular as one, and no more of them begin than are due.
                let (turn, rate) = (part(load.users.start), rate * part(load.users.len()));
                self.at_rate(start_ns, end_ns, rate, turn).await?;
            }
            Pace::Window(window) => {
                let window = (window * load.users.len() as u64 / load.plan.users as u64).max(1);
                self.saturate(end_ns, window).await;
            }
        }
        Ok(())
    }

    /// `turn` is the part of an interval after which its first event is due.
    async fn at_rate(&mut self, start_ns: u64, end_ns: u64, rate: f64, turn: f64) -> io::Result<()> {
        let mut pacer = Pacer::new()?;
        // At next to no rate, the second is due after the end of time.
        let due = |sent: u64| start_ns.saturating_add(((sent as f64 + turn) * 1e9 / rate) as u64);
        let mut sent = 0;
        while due(sent) < end_ns {
            let now = self.load.now_ns();
            if due(sent) > now {
                pacer.sleep(Duration::from_nanos(due(sent) - now)).await?;
                continue;
            }
            let burst = sent + self.burst;
            // Late, all that was due comes at once; what is due at the end or after it never is.
            while sent < burst && due(sent) <= now && due(sent) < end_ns {
                self.append(due(sent));
                sent += 1;
            }
            self.flush().await;
            if due(sent) <= self.load.now_ns() {
                // Behind, it never sleeps; the sockets have to be read all the same.
                tokio::task::yield_now().await;
            }
        }
        // Nothing more is due; the measured part lasts for as long as it was meant to all the same.
        pacer.sleep(Duration::from_nanos(end_ns.saturating_sub(self.load.now_ns()))).await
    }

    async fn saturate(&mut self, end_ns: u64, window: u64) {
        // Events that as many deliveries stand for, on average: not every user has all of their sessions.
        let (users, entered) = (self.load.users.len() as u64, self.load.entered.get());
        if entered == 0 {
            // Nothing will tell how fast is too fast.
            tokio::time::sleep(self.load.plan.warm_up + self.load.plan.duration).await;
            return;
        }
        // Woken when an eighth of it is free: a write for every delivery would measure this side.
        self.load.low.set(window - window.div_ceil(8));
        loop {
            let now = self.load.now_ns();
            if now >= end_ns || !self.skip_ended() {
                return;
            }
            let on_their_way = self.load.on_their_way() * users / entered;
            let room = window.saturating_sub(on_their_way).min(self.burst);
            if room > 0 {
                for _ in 0..room {
                    self.append(now);
                    self.skip_ended();
                }
                self.flush().await;
                tokio::task::yield_now().await;
            } else if timeout(STUCK, self.load.moved.notified()).await.is_err() {
                self.load.forgive();
            }
        }
    }

    /// Goes on to a user whose connection has not ended: no schedule asks for events of the others, and refusals would
    /// come faster than anything is delivered. False where all have ended.
    fn skip_ended(&mut self) -> bool {
        for _ in 0..self.load.users.len() {
            let user = self.load.users.start + self.next_user;
            let ended = match &self.way {
                Way::Worker(workers) => workers[(user + 1) % workers.len()].has_ended(),
                Way::Http(pool) => pool.is_away(user),
                Way::Xadd(_) => false,
            };
            if !ended {
                return true;
            }
            self.next_user = (self.next_user + 1) % self.load.users.len();
        }
        false
    }

    /// Makes the next event and puts it where the next flush takes it from.
    fn append(&mut self, then_ns: u64) {
        let load = &self.load;
        let user = self.next_user;
        self.next_user = (user + 1) % load.users.len();
        let event_number = load.number(user);
        let number = load.users.start + user;

        self.fields.clear();
        self.fields.extend_from_slice(br#""event":"bench","#);
        let data = self.fields.len() + br#""data":"#.len();
        event::head(&mut self.fields, &load.mark, event_number, then_ns);
        self.fields.extend_from_slice(br#","p":""#);
        let written = self.fields.len() - data + br#""}"#.len();
        self.fields.extend_from_slice(&self.padding[..load.plan.payload.saturating_sub(written)]);
        self.fields.extend_from_slice(br#""}"#);

        let answered = self.answers.then_some((user, then_ns));
        let event = Ready { user: number, answered, fields: &self.fields };
        match &mut self.way {
            Way::Worker(workers) => {
                self.frame.clear();
                frame(&mut self.frame, load, &event);
                if self.answers {
                    load.ask(user);
                }
                workers[(number + 1) % workers.len()].queue(user, then_ns, &self.frame);
            }
            Way::Http(pool) => {
                let mut body = Vec::with_capacity(self.fields.len() + 64);
                frame(&mut body, load, &event);
                pool.queue(load, number, user, then_ns, body);
            }
            Way::Xadd(feed) => feed.queue(load, number, user, then_ns, &self.fields[data..]),
        }
    }

    async fn flush(&mut self) {
        if let Way::Worker(workers) = &mut self.way {
            for worker in workers.iter() {
                worker.flush();
            }
            // One that takes nothing holds up the others only once so much waits for it.
            for worker in workers {
                worker.room().await;
            }
        }
    }

    /// Gives up what nobody has taken yet.
    pub fn finish(&self) {
        if let Way::Worker(workers) = &self.way {
            workers.iter().for_each(|worker| worker.finish());
        }
    }
}

/// Events of one write, where each has so many bytes of data.
fn burst(payload: usize) -> u64 {
    BURST.min((BURST_BYTES / payload.max(1)) as u64).max(1)
}

/// A worker's frame.
fn frame(out: &mut Vec<u8>, load: &Load, event: &Ready<'_>) {
    out.push(b'{');
    if let Some((user, then_ns)) = event.answered {
        out.extend_from_slice(br#""ref":""#);
        event::reference(out, user, then_ns);
        out.extend_from_slice(br#"","#);
    }
    out.extend_from_slice(br#""userId":"#);
    out.extend_from_slice(load.plan.user_json(event.user).as_bytes());
    out.push(b',');
    out.extend_from_slice(event.fields);
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_bounded_in_events_and_in_bytes() {
        assert_eq!([64, 512 << 10, 1 << 20, 64 << 20].map(burst), [128, 128, 64, 1]);
    }
}
