//! What waits for the socket goes out, in the order of the log.

use super::Session;
use crate::id::Logged;

impl Session {
    /// Hands all that waits to the socket, for one flush.
    pub(super) fn send_waiting(&mut self) {
        let Self { transport, registered, last, flushing, steps, clock, free_acks, .. } = self;
        let handle = registered.handle();
        let mut waiting = handle.take();
        if !registered.router().lease().allows_delivery() {
            return handle.look(); // thawed: what waits may be old, and the log has what counts
        }
        let mut burst = registered.router().metrics().burst();
        let mut in_order = false;
        while let Some(outgoing) = waiting.pop_front() {
            let logged = outgoing.logged;
            if let Some(Logged { id, prev }) = logged {
                if id <= *last {
                    continue; // doubled
                }
                if prev > *last {
                    waiting.push_front(outgoing);
                    if in_order {
                        // Hints of two publishers may cross on their way: what is between may come yet.
                        handle.hold(waiting);
                        return clock.wait_for_missing();
                    }
                    in_order = true;
                    waiting.make_contiguous().sort_by_key(|outgoing| outgoing.logged);
                    continue;
                }
                *last = id;
            }
            if let Some(frame) = outgoing.frame {
                *flushing = true;
                let id = logged.map(|logged| logged.id);
                if transport.feed(frame, id).is_err() {
                    return; // the next flush fails, and ends the session
                }
                if id.is_some() {
                    free_acks.sends_event();
                }
                burst.hinted(id);
                steps.handed(registered, id);
            }
        }
        clock.missing = None;
    }
}
