//! The form of keys and entries, as one number: nodes whose numbers are too far apart do not serve beside each other.
//! How a form changes is in `src/docs/upgrades.md`.

use redis::cmd;

use super::{Context, reply};
use crate::engine::Unavailable;
use crate::id::NodeId;

/// One more with each release that reads a new form, and one more with each that writes it. `claim.lua` notes it in
/// `node:<id>`; where no number is there, it is 1.
pub const FORMAT: u64 = 1;

/// Whether nodes with these numbers understand each other: of two releases next to each other each reads what the
/// other writes.
fn share_keys(ours: u64, theirs: u64) -> bool {
    ours.abs_diff(theirs) <= 1
}

/// A live node that does not understand this one, or that this one does not understand.
///
/// # Errors
/// Where Redis is away.
pub async fn stranger(context: &Context) -> Result<Option<NodeId>, Unavailable> {
    let mut names = cmd("ZRANGE");
    names.arg(context.keys.nodes()).arg(0).arg(-1);
    for name in reply::array(context.link.probe_one(names).await?)? {
        let Ok(node) = reply::text(&name)?.parse::<NodeId>() else { continue };
        let mut fields = cmd("HMGET");
        fields.arg(context.keys.node(node.as_str())).arg("version").arg("format");
        let fields = reply::array(context.link.probe_one(fields).await?)?;
        let text = |at: usize| fields.get(at).and_then(|field| reply::text(field).ok());
        // Without a version it is gone, or being cleared up after.
        let alive = text(0).is_some_and(|version| !version.is_empty());
        let theirs = text(1).map_or(Ok(1), str::parse).unwrap_or(u64::MAX);
        if alive && node != context.config.node && !share_keys(FORMAT, theirs) {
            return Ok(Some(node));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_next_to_each_other_share_keys() {
        let with = |ours: u64| (1..6).filter(|theirs| share_keys(ours, *theirs)).collect::<Vec<_>>();
        assert_eq!((with(1), with(3)), (vec![1, 2], vec![2, 3, 4]));
    }
}
