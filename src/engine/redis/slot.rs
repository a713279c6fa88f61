//! Hash slots: which keys a Redis Cluster keeps together, and what of a batch may go into one script call.
//!
//! A single server counts as one slot, so that grouping is the same code everywhere: there it makes one group.

use redis::{Arg, Cmd, Value};

use super::reply;
use super::wire::Returned;
use crate::engine::Unavailable;

/// Slots of a Cluster.
pub const SLOTS: usize = 16_384;

/// A hash slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Slot(pub u16);

impl Slot {
    /// The slot of a key: of what stands in its first braces, or of all of it.
    pub fn of(key: &[u8]) -> Self {
        let open = key.iter().position(|byte| *byte == b'{');
        let tag = open.and_then(|open| {
            let rest = &key[open + 1..];
            let close = rest.iter().position(|byte| *byte == b'}')?;
            (close > 0).then(|| &rest[..close])
        });
        Self(crc16(tag.unwrap_or(key)) & (SLOTS as u16 - 1))
    }

    /// One of so many shares that a single server's users fall to.
    pub fn share(user: &[u8], shares: usize) -> Self {
        if shares == 1 { Self::default() } else { Self((usize::from(crc16(user)) % shares) as u16) }
    }

    /// The slot of a command's first key: all its keys share it. None where it has no key; what is asked of every server,
    /// like `INFO`, goes to none by its slot.
    pub fn of_command(command: &Cmd) -> Option<Self> {
        let mut args = command.args_iter().filter_map(|arg| match arg {
            Arg::Simple(bytes) => Some(bytes),
            _ => None,
        });
        let at = match args.next()? {
            b"EVALSHA" => 2,
            b"XGROUP" | b"XINFO" => 1,
            _ => 0,
        };
        args.nth(at).map(Self::of)
    }
}

/// CRC16 as Redis Cluster has it (XMODEM: polynomial 0x1021, from 0).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let at = (crc >> 8) ^ u16::from(*byte);
        (crc << 8) ^ TABLE[usize::from(at & 0xff)]
    })
}

const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < table.len() {
        let mut crc = (at as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
};

/// A batch in groups of one slot and at most `most` items each. A group holds places in the batch, in their order.
#[derive(Debug)]
pub struct Groups(Vec<Vec<usize>>);

impl Groups {
    /// Groups a batch whose items have these slots.
    pub fn new(slots: impl Iterator<Item = Slot>, most: usize) -> Self {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut open: Vec<(Slot, usize)> = Vec::new();
        for (place, slot) in slots.enumerate() {
            let known = open.iter().position(|(known, _)| *known == slot);
            match known {
                Some(at) if groups[open[at].1].len() < most => groups[open[at].1].push(place),
                _ => {
                    groups.push(vec![place]);
                    match known {
                        Some(at) => open[at].1 = groups.len() - 1,
                        None => open.push((slot, groups.len() - 1)),
                    }
                }
            }
        }
        Self(groups)
    }

    /// The groups.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[usize]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// Each item's own outcome, in the order of the batch, out of one script answer for each group: an array.
    pub fn outcomes<T>(
        &self,
        answers: Vec<Returned>,
        mut parse: impl FnMut(usize, Value) -> Result<T, Unavailable>,
    ) -> Vec<Result<T, Unavailable>> {
        self.each(answers, |group, answer| {
            let items = reply::array(answer)?;
            Ok(group.iter().zip(items).map(|(place, item)| parse(*place, item)).collect())
        })
    }

    /// Each item's own outcome, in the order of the batch, out of what `parse` makes of each group's answer.
    pub fn each<T>(
        &self,
        answers: Vec<Returned>,
        mut parse: impl FnMut(&[usize], Value) -> Result<Vec<Result<T, Unavailable>>, Unavailable>,
    ) -> Vec<Result<T, Unavailable>> {
        let count = self.0.iter().map(Vec::len).sum();
        let mut outcomes: Vec<_> =
            (0..count).map(|_| Err(Unavailable::new("Redis answered too little"))).collect();
        for (group, answer) in self.0.iter().zip(answers) {
            match answer.and_then(|answer| parse(group, answer)) {
                Ok(its) => {
                    for (place, outcome) in group.iter().zip(its) {
                        outcomes[*place] = outcome;
                    }
                }
                Err(error) => group.iter().for_each(|place| outcomes[*place] = Err(error.clone())),
            }
        }
        outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // As `CLUSTER KEYSLOT` answers.
        for (key, slot) in [
            ("foo", 12_182),
            ("{user1000}.following", 3443),
            ("user1000", 3443),
            ("foo{}{bar}", 8363),
            ("", 0),
        ] {
            assert_eq!(Slot::of(key.as_bytes()), Slot(slot), "{key}");
        }
        assert_eq!(Slot::of(b"foo{{bar}}zap"), Slot::of(b"{bar"));
        assert_eq!(Slot::of(b"user:42"), Slot::of(b"log:{user:42}"));
    }

    #[test]
    fn a_command_knows_its_key() {
        let slot = |words: &[&str]| {
            let mut command = Cmd::new();
            command.arg(words);
            Slot::of_command(&command)
        };
        assert_eq!(slot(&["XADD", "foo", "*", "a", "b"]), Some(Slot(12_182)));
        assert_eq!(slot(&["EVALSHA", "0123", "1", "foo", "x"]), Some(Slot(12_182)));
        assert_eq!(slot(&["XGROUP", "CREATE", "foo"]), Some(Slot(12_182)));
        assert_eq!(slot(&["TIME"]), None);
    }

    #[test]
    fn groups_keep_the_order_within_a_slot_and_their_bound() {
        let slots = [1, 2, 1, 1, 2, 1].map(Slot);
        let groups = Groups::new(slots.into_iter(), 3);
        assert_eq!(groups.iter().collect::<Vec<_>>(), [&[0, 2, 3][..], &[1, 4], &[5]]);
        let answers = vec![
            Ok(Value::Array(vec![Value::Int(0), Value::Int(2), Value::Int(3)])),
            Err(Unavailable::new("away")),
            Ok(Value::Array(Vec::new())),
        ];
        let outcomes = groups.outcomes(answers, |_, value| reply::integer(&value));
        let told: Vec<_> =
            outcomes.into_iter().map(|outcome| outcome.map_err(|error| error.to_string())).collect();
        let (away, little) = ("away".to_owned(), "Redis answered too little".to_owned());
        assert_eq!(told, [Ok(0), Err(away.clone()), Ok(2), Ok(3), Err(away), Err(little)]);
    }
}
