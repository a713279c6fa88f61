//! What a client sends, and what is done with it.

use tokio_tungstenite::tungstenite::{Error, Message};

use super::rate::Verdict;
use super::{Done, End, Session, steps};
use crate::acked::Confirmation;
use crate::close::Close;
use crate::engine::Uplink;
use crate::id::EventId;
use crate::protocol::client::{self, Incoming};
use crate::protocol::code::{Code, Refusal};
use crate::protocol::publish::Data;

impl Session {
    pub(super) fn take_message(&mut self, message: Message) -> Result<Option<End>, Error> {
        if let Message::Pong(payload) = &message
            && let Some(confirmed) = self.clock.pong(payload)
        {
            self.confirm(confirmed.min(self.last), Confirmation::Pong); // or Redis has lost it since
            return Ok(self.clock.closes_for().map(End::Close));
        }
        self.clock.heard();
        let text = match message {
            Message::Text(text) => Some(text),
            Message::Binary(_) => return Ok(Some(End::Close(Close::Binary))),
            Message::Close(frame) => return Ok(Some(End::Gone(frame.map(|frame| frame.code.into())))),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => None,
        };
        let incoming = text.as_deref().map(Incoming::parse);
        let verdict = match &incoming {
            Some(Ok(Incoming::Ack(_))) if self.free_acks.take() => Verdict::Allowed,
            _ => self.rates.take(self.registered.user(), self.registered.client()),
        };
        match verdict {
            Verdict::Allowed => {}
            Verdict::Limited => {
                let refusal = Refusal::new(
                    Code::RateLimited,
                    format!(
                        "more than {} messages a second; this one was dropped",
                        self.clock.limits.client_rate
                    ),
                );
                return self.refuse(&refusal).map(|()| None);
            }
            Verdict::Persistent => return Ok(Some(End::Close(Close::RateLimited))),
        }
        let Some(incoming) = incoming else {
            // The library has queued the pong to a ping: it goes out with the next flush.
            (self.flushing, self.answers) = (true, self.answers + 1);
            return Ok(None);
        };
        match incoming {
            Ok(Incoming::Ping) => self.answer(client::pong())?,
            // What was not sent cannot have arrived.
            Ok(Incoming::Ack(id)) => self.confirm(id.min(self.last), Confirmation::Ack),
            Ok(Incoming::Message { event, data }) => {
                steps::note(&self.registered, "message", || vec![("event", event.to_string())]);
                let sent = self.registered.router().engine().uplink(Uplink {
                    user: self.registered.user().clone(),
                    client: self.registered.client().clone(),
                    event,
                    data: Data::from_json_text(data.to_owned()),
                });
                self.pending = Some(Box::pin(async move { Ok(sent.await.map(|()| Done::Uplinked)?) }));
            }
            Ok(Incoming::Token(token)) => {
                self.clock.renews = true;
                let (auth, user) = (self.auth.clone(), self.registered.user().clone());
                self.pending =
                    Some(Box::pin(async move { auth.renew(&user, &token).await.map(Done::Renewed) }));
            }
            Err(refusal) => self.refuse(&refusal)?,
        }
        Ok(None)
    }

    /// The client has everything up to `id`, as it says itself or as its pong shows.
    fn confirm(&self, id: EventId, by: Confirmation) {
        let handle = self.registered.handle();
        let is_more = handle.confirm(id);
        if handle.unsaved().is_some() {
            self.registered.router().acked().add(self.registered.user(), by);
        }
        if is_more {
            steps::note(&self.registered, "confirmed", || {
                vec![("id", id.to_string()), ("by", by.as_str().to_owned())]
            });
        }
    }
}
