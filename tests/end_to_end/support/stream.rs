//! A client by server-sent events: it reads what it is told to, parses what a browser would, and sends nothing.

use std::time::Duration;

use reqwest::Response;
use serde_json::Value;

use super::client::{Event, parse_event};
use super::node::Node;
use super::wait::{BOUND, within};

/// A frame, with what stood around it.
#[derive(Debug, Clone, Default)]
pub struct Block {
    pub id: Option<String>,
    pub retry: Option<u64>,
    /// The lines of `data`, joined as a browser would.
    pub data: String,
}

impl Block {
    /// The frame.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// An answer that does not end. Dropping it breaks the connection.
pub struct EventStream {
    pub welcome: Value,
    /// The id that came with the welcome: where this client stands.
    pub stands_at: String,
    /// Comments so far.
    pub comments: usize,
    response: Response,
    buffer: String,
    history: Vec<Block>,
}

impl EventStream {
    /// Connects with this query string, and waits for the welcome.
    pub async fn open(node: &Node, query: &str) -> Self {
        Self::open_with(node, query, &[]).await
    }

    /// Connects where this client was last, as a browser does by itself.
    pub async fn after(node: &Node, query: &str, last: &str) -> Self {
        Self::open_with(node, query, &[("last-event-id", last)]).await
    }

    /// Connects with these headers.
    pub async fn open_with(node: &Node, query: &str, headers: &[(&str, &str)]) -> Self {
        Self::unless_unauthorized(node, query, headers).await.expect("not 401")
    }

    /// The same; `None` where the answer is 401.
    pub async fn unless_unauthorized(node: &Node, query: &str, headers: &[(&str, &str)]) -> Option<Self> {
        let client = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        let mut request = client.get(node.client_http(&format!("/events?{query}")));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = within(BOUND, "an answer from /events", request.send()).await.expect("an answer");
        if response.status() == 401 {
            return None;
        }
        assert_eq!(response.status(), 200, "{response:?}");
        // A proxy that keeps, compresses or collects it would hold events up.
        for (name, word) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-store"),
            ("cache-control", "no-transform"),
            ("x-accel-buffering", "no"),
        ] {
            let value =
                response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
            // nginx heeds the last one, and does not pass it on.
            let by_nginx = name == "x-accel-buffering" && response.headers().contains_key("server");
            let has = value.split([',', ';']).any(|known| known.trim() == word);
            assert!(has || by_nginx, "{name}: {response:?}");
        }
        let (welcome, stands_at, buffer, history) = Default::default();
        let mut stream = Self { welcome, stands_at, comments: 0, response, buffer, history };
        let block = stream.block("the welcome").await;
        stream.welcome = block.json();
        assert_eq!(stream.welcome["type"], "welcome", "{block:?}");
        assert!(block.retry.is_some(), "a browser is told how long to wait: {block:?}");
        stream.stands_at = block.id.expect("an id with the welcome");
        Some(stream)
    }

    /// The next frame; `None` at the end of the answer.
    pub async fn next(&mut self, awaited: &str) -> Option<Block> {
        loop {
            if let Some((text, rest)) = self.buffer.split_once("\n\n") {
                let (text, rest) = (text.to_owned(), rest.to_owned());
                self.buffer = rest;
                let block = self.parse(&text);
                if let Some(block) = block {
                    self.history.push(block.clone());
                    return Some(block);
                }
                continue;
            }
            let chunk = tokio::time::timeout(BOUND, self.response.chunk()).await;
            let Ok(chunk) = chunk else { self.fail(awaited, &format!("nothing within {BOUND:?}")) };
            match chunk {
                Ok(Some(bytes)) => self.buffer.push_str(std::str::from_utf8(&bytes).expect("UTF-8")),
                Ok(None) => return None,
                Err(error) => self.fail(awaited, &format!("a broken connection: {error}")),
            }
        }
    }

    /// Comments and empty blocks are no frames.
    fn parse(&mut self, text: &str) -> Option<Block> {
        let mut block = Block::default();
        let mut lines = Vec::new();
        for line in text.split('\n') {
            match line.split_once(':') {
                Some(("", _)) => self.comments += 1,
                Some(("id", id)) => block.id = Some(id.trim().to_owned()),
                Some(("retry", ms)) => block.retry = Some(ms.trim().parse().expect("milliseconds")),
                Some(("data", data)) => lines.push(data.strip_prefix(' ').unwrap_or(data)),
                _ => self.fail("lines of an event stream", line),
            }
        }
        block.data = lines.join("\n");
        (!lines.is_empty()).then_some(block)
    }

    /// The next frame.
    pub async fn block(&mut self, awaited: &str) -> Block {
        match self.next(awaited).await {
            Some(block) => block,
            None => self.fail(awaited, "the end"),
        }
    }

    /// The next frame, which has to be an event with the id that it says.
    pub async fn event(&mut self) -> Event {
        let block = self.block("an event").await;
        let Some(event) = parse_event(&block.data) else { self.fail("an event", &block.data) };
        assert_eq!(event.id, block.id, "the frame's id against the stream's: {block:?}");
        event
    }

    /// The next events; each frame has to be one.
    pub async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::with_capacity(count);
        for _ in 0..count {
            events.push(self.event().await);
        }
        events
    }

    /// Reads on to the end, before which a `bye` has to come.
    pub async fn bye(&mut self) -> Block {
        within(2 * BOUND, "a bye and the end", async {
            let mut last = None;
            while let Some(block) = self.next("the end").await {
                last = Some(block);
            }
            let last = last.unwrap_or_else(|| self.fail("a bye", "the end"));
            assert_eq!(last.json()["type"], "bye", "{last:?}");
            last
        })
        .await
    }

    /// Waits for so many more signs of life, in which no other line may come: an empty one is a message to some readers.
    pub async fn heartbeats(&mut self, count: usize) {
        let wanted = self.comments + count;
        while self.comments < wanted {
            let chunk = tokio::time::timeout(BOUND + Duration::from_secs(10), self.response.chunk()).await;
            let bytes = chunk.expect("a heartbeat in time").expect("a connection").expect("no end");
            self.buffer.push_str(std::str::from_utf8(&bytes).expect("UTF-8"));
            while let Some((line, rest)) = self.buffer.split_once('\n') {
                assert_eq!(line, ":", "a comment");
                self.comments += 1;
                self.buffer = rest.to_owned();
            }
        }
    }

    fn fail(&self, awaited: &str, instead: &str) -> ! {
        let from = self.history.len().saturating_sub(20);
        panic!("waited for {awaited}, got {instead}; before it: {:#?}", &self.history[from..]);
    }
}
