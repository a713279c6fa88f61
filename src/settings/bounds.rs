//! Bounds that have no setting of their own, because no deployment should need one. Tests lower them: what takes 16,384
//! connections to go past is reached by four.

use bytesize::ByteSize;

use super::read::Reader;
use crate::auth::api;
use crate::listener::{body, in_flight};
use crate::router;

/// The bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Registrations that may wait for their turn.
    pub registrations: usize,
    /// Clients that may wait until the API server is asked about them.
    pub questions: usize,
    /// Bytes of all bodies of requests together.
    pub bodies: usize,
    /// Bytes of all workers' frames on their way.
    pub frames: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            registrations: router::WAITING,
            questions: api::QUEUE,
            bodies: body::ALL,
            frames: in_flight::ALL,
        }
    }
}

/// Reads `name=bound` pairs; none where anything is off.
pub(super) fn read(r: &mut Reader) -> Option<Bounds> {
    let allowed =
        "comma-separated, of registrations=4, questions=4, bodies=1MiB, frames=1MiB; none above its default";
    r.optional("bounds", allowed, parse).map(Option::unwrap_or_default)
}

fn parse(text: &str) -> Option<Bounds> {
    let mut bounds = Bounds::default();
    for pair in text.split(',') {
        let (name, value) = pair.trim().split_once('=')?;
        let bound = match name {
            "registrations" => &mut bounds.registrations,
            "questions" => &mut bounds.questions,
            "bodies" => &mut bounds.bodies,
            "frames" => &mut bounds.frames,
            _ => return None,
        };
        let value = usize::try_from(value.parse::<ByteSize>().ok()?.as_u64()).ok()?;
        *bound = Some(value).filter(|value| (1..=*bound).contains(value))?;
    }
    Some(bounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_lowered_by_name_and_never_raised() {
        let lowered = parse("registrations=4, bodies=1MiB").unwrap();
        assert_eq!(lowered, Bounds { registrations: 4, bodies: 1 << 20, ..Bounds::default() });
        for bad in ["", "bodies", "bodies=", "bodies=0", "bodies=1GiB", "body=1", "bodies=-1", "bodies=1,"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
