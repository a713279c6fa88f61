//! Many events over one WebSocket: lines of JSON in, answers out in the same order, a bounded number on their way.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::io::{self, AsyncBufRead, AsyncBufReadExt, BufReader, Split};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use crate::command::endpoint::Endpoint;
use crate::command::wire::{self, NoSocket, WebSocket};
use crate::command::{Failure, Outcome, print_aside};
use crate::logging;
use crate::protocol::code::{Code, Refusal};
use crate::protocol::publish::{Receipt, Request, answer};

/// Lines that were read and whose answer is not printed: half of what a node takes from one worker at once. A reader of
/// the answers who stalls so holds up the lines, and not the connection.
const IN_FLIGHT: usize = 512;
/// Bytes of them, but for one line that is larger.
const IN_FLIGHT_BYTES: usize = 8 << 20;
/// A node that says nothing for this long while it owes answers is gone, whatever TCP believes: it pings every 25 s where
/// nobody says otherwise, and an answer waits a few seconds for Redis.
const SILENCE: Duration = Duration::from_secs(30);
/// Between two looks of the progress line.
const PROGRESS: Duration = Duration::from_millis(250);

/// Some editors and shells put it at the start of a text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A line's place among those, which it has until its answer is printed.
type Place = OwnedSemaphorePermit;

/// A line whose turn to be answered has not come.
enum Waiting {
    /// It could not be sent; this is its answer.
    Answered(Utf8Bytes),
    /// It was sent; the `ref` that was put into it, where it had none of its own, and its length.
    Sent(Option<String>, usize),
}

/// Publishes each line of standard input.
///
/// # Errors
/// Where the node is not reached or the connection breaks, or any line was refused.
pub async fn run(to: &Endpoint) -> Outcome {
    let failed = |(NoSocket::Refused { reason, .. } | NoSocket::Unreached(reason))| Failure::Failed(reason);
    let socket = wire::websocket(to, "workerId=switchboard-publish").await.map_err(failed)?;
    publish(socket, BufReader::new(io::stdin()).split(b'\n')).await
}

async fn publish<R: AsyncBufRead + Unpin>(socket: WebSocket, lines: Split<R>) -> Outcome {
    let (out, answers) = socket.split();
    let (frames, queued) = mpsc::unbounded_channel(); // bounded by what is in flight
    let writer = tokio::spawn(write(out, queued));
    let (printed, told) = mpsc::unbounded_channel(); // bounded by the places
    let printer = tokio::spawn(print(told));
    let mut pipeline = Pipeline {
        frames,
        answers,
        printed,
        places: Arc::new(Semaphore::new(IN_FLIGHT)),
        heard: Instant::now(),
        waiting: VecDeque::new(),
        bytes: 0,
        count: Count {
            since: Instant::now(),
            lines: 0,
            sent: 0,
            answered: 0,
            refused: 0,
            shown: std::io::stderr().is_terminal(),
        },
    };
    let outcome = pipeline.serve(lines).await;
    if pipeline.count.shown {
        logging::show("\n");
    }
    let Pipeline { frames, printed, count, .. } = pipeline;
    drop((frames, printed));
    // What was answered is told, whatever happened then.
    let outcome = match printer.await {
        Ok(Ok(())) => outcome,
        Ok(Err(Failure::Failed(reason))) => Err(reason),
        _ => Err("nobody reads the answers any more".to_owned()),
    };
    match outcome {
        Ok(()) if count.refused == 0 => {
            let _ = writer.await; // it says goodbye; everything is answered by now
            Ok(())
        }
        Ok(()) => Err(Failure::Failed(format!("{} of {} events were refused", count.refused, count.sent))),
        Err(reason) => Err(Failure::Failed(format!(
            "{reason}; {} of {} events have been answered: only of those it is known what became of them",
            count.answered, count.sent
        ))),
    }
}

/// Writes frames, and flushes when no other is there yet. Ends with a close frame.
async fn write(
    mut out: SplitSink<WebSocket, Message>,
    mut frames: mpsc::UnboundedReceiver<Message>,
) -> Result<(), Error> {
    while let Some(frame) = frames.recv().await {
        out.feed(frame).await?;
        while let Ok(frame) = frames.try_recv() {
            out.feed(frame).await?;
        }
        out.flush().await?;
    }
    out.close().await
}

/// Prints answers, as many at once as there are.
async fn print(mut answers: mpsc::UnboundedReceiver<(Utf8Bytes, Place)>) -> Outcome {
    let mut batch = Vec::new();
    while answers.recv_many(&mut batch, IN_FLIGHT).await > 0 {
        let lines = batch.iter().flat_map(|(answer, _)| [answer.as_str(), "\n"]).collect();
        print_aside(lines).await?;
        batch.clear();
    }
    Ok(())
}

struct Pipeline {
    frames: mpsc::UnboundedSender<Message>,
    answers: SplitStream<WebSocket>,
    printed: mpsc::UnboundedSender<(Utf8Bytes, Place)>,
    places: Arc<Semaphore>,
    /// When something last came from the node, or it owed nothing.
    heard: Instant,
    waiting: VecDeque<(Waiting, Place)>,
    bytes: usize,
    count: Count,
}

impl Pipeline {
    /// Serves until every line has its answer.
    async fn serve<R: AsyncBufRead + Unpin>(&mut self, mut lines: Split<R>) -> Result<(), String> {
        let mut more = true;
        let mut tick = interval(PROGRESS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while more || !self.waiting.is_empty() {
            let room = self.bytes < IN_FLIGHT_BYTES;
            let places = Arc::clone(&self.places);
            tokio::select! {
                biased; // what has come counts more than for how long nothing did
                message = self.answers.next() => self.hear(message)?,
                () = sleep_until(self.heard + SILENCE), if !self.waiting.is_empty() => {
                    return Err("nothing was heard from the node for too long".to_owned());
                }
                line = next(&mut lines, places), if more && room => match line {
                    Ok(Some((line, place))) => self.take(line, place),
                    Ok(None) => more = false,
                    Err(error) => return Err(format!("standard input cannot be read: {error}")),
                },
                _ = tick.tick(), if self.count.shown => self.count.show(),
            }
            self.print_answered()?;
        }
        if self.count.shown {
            self.count.show();
        }
        Ok(())
    }

    fn take(&mut self, mut line: Vec<u8>, place: Place) {
        self.count.lines += 1;
        if self.count.lines == 1 && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        if line.trim_ascii().is_empty() {
            return;
        }
        self.count.sent += 1;
        let Ok(text) = Utf8Bytes::try_from(line) else {
            return self.refuse(None, Refusal::new(Code::InvalidFrame, "it is not UTF-8"), place);
        };
        let request = Request::parse(&text, usize::MAX);
        match request.publish {
            // No frame at all: the node could not tell which one it was.
            Err(refusal) if refusal.code == Code::InvalidFrame => {
                self.refuse(request.reference.as_deref(), refusal, place);
            }
            // The node has the last word on all else.
            _ => {
                let ours = request.reference.is_none().then(|| format!("line-{}", self.count.sent));
                let frame = match &ours {
                    Some(reference) => with_ref(&text, reference),
                    None => text,
                };
                if self.waiting.is_empty() {
                    self.heard = Instant::now();
                }
                self.bytes += frame.len();
                self.waiting.push_back((Waiting::Sent(ours, frame.len()), place));
                let _ = self.frames.send(Message::Text(frame)); // a writer that has ended shows at the next read
            }
        }
    }

    /// Answers the last line, which is not sent.
    fn refuse(&mut self, reference: Option<&str>, refusal: Refusal, place: Place) {
        let refusal = Refusal::new(refusal.code, format!("line {}: {}", self.count.lines, refusal.message));
        let outcome: Result<Receipt, Refusal> = Err(refusal);
        self.waiting.push_back((Waiting::Answered(answer(reference, &outcome)), place));
    }

    fn hear(&mut self, message: Option<Result<Message, Error>>) -> Result<(), String> {
        self.heard = Instant::now();
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(Some(frame)))) => {
                return Err(format!("the node closed the connection ({} {})", frame.code, frame.reason));
            }
            Some(Ok(Message::Close(None))) | None => return Err("the node closed the connection".to_owned()),
            Some(Ok(_)) => return Ok(()),
            Some(Err(error)) => return Err(format!("the connection broke: {error}")),
        };
        if text.starts_with(r#"{"type":"bye""#) {
            return Ok(()); // its close comes next
        }
        // Everything before the first that was sent has been handed on already.
        let Some((Waiting::Sent(ours, bytes), place)) = self.waiting.pop_front() else {
            return Err(format!("an answer to nothing: {text}"));
        };
        self.bytes -= bytes;
        let answer = match ours {
            Some(reference) => text.replacen(&format!(r#""ref":"{reference}","#), "", 1).into(),
            None => text,
        };
        self.waiting.push_front((Waiting::Answered(answer), place));
        Ok(())
    }

    /// Hands on the answers whose turn it is.
    fn print_answered(&mut self) -> Result<(), String> {
        let is_answered = |(line, _): &mut (Waiting, Place)| matches!(line, Waiting::Answered(_));
        while let Some((Waiting::Answered(answer), place)) = self.waiting.pop_front_if(is_answered) {
            self.count.answered += 1;
            self.count.refused += u64::from(answer.starts_with(r#"{"type":"error""#));
            // Why it has ended is told by itself.
            self.printed.send((answer, place)).map_err(|_| "the answers cannot be printed".to_owned())?;
        }
        Ok(())
    }
}

/// The next line, once there is a place for it.
async fn next<R: AsyncBufRead + Unpin>(
    lines: &mut Split<R>,
    places: Arc<Semaphore>,
) -> io::Result<Option<(Vec<u8>, Place)>> {
    let place = places.acquire_owned().await.map_err(io::Error::other)?;
    Ok(lines.next_segment().await?.map(|line| (line, place)))
}

/// Puts a `ref` in the place of one that is null, which counts as none, or else in front of a JSON object's first
/// field.
fn with_ref(object: &str, reference: &str) -> Utf8Bytes {
    #[derive(Deserialize)]
    struct Frame<'a> {
        #[serde(borrow, default, deserialize_with = "even_null")]
        r#ref: Option<&'a RawValue>,
    }
    // An `Option` by itself does not tell a null from a field that is not there.
    fn even_null<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
        Deserialize::deserialize(value).map(Some)
    }
    let null = serde_json::from_str::<Frame<'_>>(object).ok().and_then(|frame| frame.r#ref);
    if let Some(null) = null.map(RawValue::get) {
        let (before, _) = object.split_at(null.as_ptr() as usize - object.as_ptr() as usize);
        let after = &object[before.len() + null.len()..];
        return format!(r#"{before}"{reference}"{after}"#).into();
    }
    let inner = object.trim_start().strip_prefix('{').unwrap_or(object);
    let comma = if inner.trim_start().starts_with('}') { "" } else { "," };
    format!(r#"{{"ref":"{reference}"{comma}{inner}"#).into()
}

/// What a person at a terminal wants to know meanwhile.
struct Count {
    since: Instant,
    /// Empty ones, too.
    lines: u64,
    sent: u64,
    answered: u64,
    refused: u64,
    /// Whether there is a terminal to show it on.
    shown: bool,
}

impl Count {
    fn show(&self) {
        let seconds = self.since.elapsed().as_secs_f64().max(0.001);
        let rate = self.answered as f64 / seconds;
        let line = format!(
            "\r{} sent, {} answered, {} refused, {rate:.0} a second\x1b[K",
            self.sent, self.answered, self.refused
        );
        logging::show(&line);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};
    use tokio::time::{sleep, timeout};
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_that_goes_silent_while_it_owes_answers_is_given_up() {
        let (here, mut node) = duplex(1 << 20);
        let socket = WebSocket::from_raw_socket(Box::new(here), Role::Client, None).await;
        let (mut input, lines) = duplex(1 << 10);
        let start = Instant::now();
        let publishing = tokio::spawn(publish(socket, BufReader::new(lines).split(b'\n')));
        // Where it owes nothing it may be silent.
        sleep(2 * SILENCE).await;
        input.write_all(b"{\"userId\":\"42\",\"event\":\"e\"}\n").await.unwrap();
        sleep(SILENCE / 2).await;
        node.write_all(b"\x89\0").await.unwrap(); // a ping
        let ended = timeout(10 * SILENCE, publishing).await.expect("an end").unwrap();
        let Err(Failure::Failed(reason)) = ended else { panic!("{ended:?}") };
        assert!(reason.contains("nothing was heard") && reason.contains("0 of 1 events"), "{reason}");
        assert_eq!(start.elapsed().as_secs(), (SILENCE * 7 / 2).as_secs());
    }

    #[test]
    fn a_ref_goes_in_front_and_leaves_the_rest_as_it_is() {
        assert_eq!(with_ref(r#" { "userId":"1" }"#, "line-3").as_str(), r#"{"ref":"line-3", "userId":"1" }"#);
        assert_eq!(with_ref("{}", "line-3").as_str(), r#"{"ref":"line-3"}"#);
        let null = r#" {"data":{"ref":null}, "r\u0065f" : null ,"userId":"1"}"#;
        let put = r#" {"data":{"ref":null}, "r\u0065f" : "line-3" ,"userId":"1"}"#;
        assert_eq!(with_ref(null, "line-3").as_str(), put, "not twice");
    }
}
