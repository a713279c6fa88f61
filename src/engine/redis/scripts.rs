//! The scripts of `lua/`, embedded, one verb each.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::Histogram;
use redis::{Arg, Cmd, Pipeline, Script};

use crate::metrics::Metrics;

macro_rules! scripts {
    ($($name:ident => $file:literal),+ $(,)?) => {
        $(
            #[doc = concat!("`lua/", $file, ".lua`")]
            pub static $name: LazyLock<Script> =
                LazyLock::new(|| Script::new(include_str!(concat!("../../../lua/", $file, ".lua"))));
        )+

        /// Every script's text, to be loaded.
        pub fn sources() -> Vec<&'static str> {
            vec![$(include_str!(concat!("../../../lua/", $file, ".lua"))),+]
        }

        /// Every script's verb.
        pub const NAMES: &[&str] = &[$($file),+];

        /// The place in [`NAMES`] of the script with this hash.
        fn place(hash: &[u8]) -> Option<usize> {
            [$($name.get_hash()),+].iter().position(|known| known.as_bytes() == hash)
        }
    };
}

scripts! {
    CONNECT => "connect",
    DISCONNECT => "disconnect",
    SIGNOUT => "signout",
    HEARTBEAT => "heartbeat",
    PUBLISH => "publish",
    TELL => "tell",
    SETTLE => "settle",
    CLAIM => "claim",
    BEAT => "beat",
    RELEASE => "release",
    DRAIN => "drain",
    LEAD => "lead",
    TAKE => "take",
    FINISH => "finish",
}

/// An `EVALSHA` of `script` whose keys and arguments are still to come: `keys` of them are keys.
pub fn call(script: &Script, keys: usize, args: usize) -> Cmd {
    let mut command = Cmd::with_capacity(3 + keys + args, 64 * (keys + args));
    command.arg("EVALSHA").arg(script.get_hash()).arg(keys);
    command
}

/// Tells how long calls of scripts take.
pub struct Timer(Vec<Histogram>);

impl Timer {
    /// A timer that tells `metrics`, which was made with [`NAMES`].
    pub fn new(metrics: &Metrics) -> Self {
        Self(metrics.redis_seconds.clone())
    }

    /// A pipeline was answered after `took`: that is for the script it calls, if it calls one.
    pub fn observe(&self, pipeline: &Pipeline, took: Duration) {
        let histogram = pipeline.cmd_iter().find_map(|command| {
            let mut args = command.args_iter();
            match (args.next()?, args.next()?) {
                (Arg::Simple(b"EVALSHA"), Arg::Simple(hash)) => self.0.get(place(hash)?),
                _ => None,
            }
        });
        if let Some(histogram) = histogram {
            histogram.observe(took.as_secs_f64());
        }
    }
}
