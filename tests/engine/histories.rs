//! Random histories of one user, held against `model`: without time, and with leases and logs that lapse in between.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::model::{History, Publish, Since, Step};
use crate::stage::{Kind, Options, user};

/// Short, so that a history trims it several times.
const LOG_LENGTH: usize = 5;
const CLIENTS: u8 = 4;
/// Histories of each engine: enough to pass every pair of steps often, in a few seconds.
const HISTORIES: u32 = 150;
/// Those in which time passes, where it does so by a clock that cannot be put forward: about a second each.
const SLOW_HISTORIES: u32 = 16;
/// A history in which the machine stood still for too long is told again, so often.
const TRIES: u32 = 5;

/// `waits`: time passes in between.
fn steps(waits: bool) -> impl Strategy<Value = Vec<Step>> {
    let since = prop_oneof![Just(Since::Nothing), Just(Since::Zero), Just(Since::Last)];
    let maybe = |values: std::ops::Range<u8>| prop::option::weighted(0.3, values);
    let publish = (0..2usize, maybe(0..CLIENTS), maybe(0..CLIENTS), maybe(0..2), maybe(0..6), 0..10u8)
        .prop_map(|(by, only, except, collapse, key, transient)| {
            Step::Publish(Publish { by, only, except, collapse, key, transient: transient == 0 })
        });
    let waits = u32::from(waits);
    let step = prop_oneof![
        12 => (0..CLIENTS, since).prop_map(|(client, since)| Step::Connect { client, since }),
        8 => (0..CLIENTS, 0..8usize).prop_map(|(client, back)| Step::Look { client, back }),
        8 => (0..CLIENTS, 0..4usize).prop_map(|(client, unconfirmed)| Step::Disconnect { client, unconfirmed }),
        4 => (0..CLIENTS, 0..4usize).prop_map(|(client, unconfirmed)| Step::Confirm { client, unconfirmed }),
        32 => publish.boxed(),
        2 * waits => Just(Step::Expire),
        2 * waits => Just(Step::Lapse),
    ];
    prop::collection::vec(step, 1..60)
}

fn run(kind: Kind, waits: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // In memory time passes at once; of Redis it is waited for. What is not to lapse must bear a busy machine.
    let (histories, unit) = match (waits, kind) {
        (true, Kind::Redis) => (SLOW_HISTORIES, Duration::from_millis(250)),
        _ => (HISTORIES, Duration::from_secs(200)),
    };
    let options =
        Options { log_length: LOG_LENGTH, session_ttl: unit, log_ttl: 3 * unit, ..Options::default() };
    let stages = runtime.block_on(async {
        let mut stages = vec![kind.stage_with(options).await];
        if kind == Kind::Redis {
            stages.push(stages[0].another("node-2").await);
        }
        stages
    });
    let (users, told) = (Cell::new(0), Cell::new(0));
    let config =
        Config { cases: histories, failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let outcome = TestRunner::new(config).run(&steps(waits), |steps| {
        for _ in 0..TRIES {
            // A user of its own for each history: the engines go on.
            users.set(users.get() + 1);
            let mut history = History::new(&stages, options, user(&users.get().to_string()));
            let whole = runtime.block_on(async {
                for step in &steps {
                    let done = AssertUnwindSafe(history.step(step)).catch_unwind().await;
                    match done {
                        _ if history.has_stalled() => return false,
                        Ok(()) => {}
                        Err(panic) => resume_unwind(panic),
                    }
                }
                true
            });
            if whole {
                told.set(told.get() + 1);
                break;
            }
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    // Fewer on a machine that is busy with something else.
    assert!(told.get() > histories / 4, "only {} of {histories} histories came to their end", told.get());
}

#[test]
fn any_history_keeps_its_word_in_memory() {
    run(Kind::Memory, false);
}

#[test]
fn any_history_keeps_its_word_in_redis() {
    run(Kind::Redis, false);
}

#[test]
fn any_history_with_lapses_keeps_its_word_in_memory() {
    run(Kind::Memory, true);
}

#[test]
fn any_history_with_lapses_keeps_its_word_in_redis() {
    run(Kind::Redis, true);
}
