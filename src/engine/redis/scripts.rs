//! The scripts of `lua/`, embedded, one verb each.

use std::sync::LazyLock;

use redis::{Cmd, Script};

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
    };
}

scripts! {
    CONNECT => "connect",
    DISCONNECT => "disconnect",
    HEARTBEAT => "heartbeat",
    PUBLISH => "publish",
    FORGET => "forget",
    CLAIM => "claim",
    BEAT => "beat",
    RELEASE => "release",
    LEAD => "lead",
}

/// An `EVALSHA` of `script` whose keys and arguments are still to come: `keys` of them are keys.
pub fn call(script: &Script, keys: usize, args: usize) -> Cmd {
    let mut command = Cmd::with_capacity(3 + keys + args, 64 * (keys + args));
    command.arg("EVALSHA").arg(script.get_hash()).arg(keys);
    command
}
