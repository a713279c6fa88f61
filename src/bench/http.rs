//! Publishing by `POST /publish`: some connections that each ask, wait for the answer, and ask again.

use std::io;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::load::Load;
use super::publisher::answered;
use super::wire;

/// Connections to each node for each one of `--publishers`: a request waits for its answer, so one alone would
/// measure round trips.
const CONNECTIONS: usize = 16;

/// Why an event is refused without an answer.
const ENDED: &[u8] = b"its connection has ended";

/// When an event was due, and its JSON object.
type Request = (u64, Vec<u8>);

/// The connections.
pub struct Pool {
    // What waits here is bounded by the window, or by the length of the run at its rate.
    queues: Vec<mpsc::UnboundedSender<Request>>,
}

impl Pool {
    /// Opens them.
    ///
    /// # Errors
    /// Where a node is not there.
    pub async fn open(load: &Rc<Load>) -> Result<Self, String> {
        let nodes = &load.plan.workers;
        let mut queues = Vec::new();
        for at in 0..CONNECTIONS * load.plan.publishers * nodes.len() {
            let to = &nodes[at % nodes.len()];
            let stream = wire::connect(to.at, None)
                .await
                .map_err(|error| format!("the worker port at {}: {error}", to.host))?;
            let authorization =
                load.plan.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n"));
            let head = format!(
                "POST /publish HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{}Content-Length: ",
                to.host,
                authorization.unwrap_or_default()
            );
            let (queue, mut requests) = mpsc::unbounded_channel();
            let load = load.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = ask(&load, stream, &head, &mut requests).await {
                    load.trouble(|| format!("a connection for POST /publish: {error}"));
                }
                requests.close();
                while requests.try_recv().is_ok() {
                    load.refuse(ENDED);
                }
            });
            queues.push(queue);
        }
        Ok(Self { queues })
    }

    /// Queues an event. A user's events keep to one connection, and so their order.
    pub fn queue(&self, load: &Load, user: usize, then_ns: u64, body: Vec<u8>) {
        if self.of(user).send((then_ns, body)).is_err() {
            load.refuse(ENDED);
        }
    }

    /// Whether a user's connection takes nothing more.
    pub fn has_ended(&self, user: usize) -> bool {
        self.of(user).is_closed()
    }

    fn of(&self, user: usize) -> &mpsc::UnboundedSender<Request> {
        &self.queues[(user + 1) % self.queues.len()]
    }
}

async fn ask(
    load: &Load,
    mut stream: TcpStream,
    head: &str,
    requests: &mut mpsc::UnboundedReceiver<Request>,
) -> io::Result<()> {
    let mut request = Vec::new();
    while let Some((then_ns, body)) = requests.recv().await {
        request.clear();
        request.extend_from_slice(head.as_bytes());
        request.extend_from_slice(format!("{}\r\n\r\n", body.len()).as_bytes());
        request.extend_from_slice(&body);
        stream.write_all(&request).await?;
        load.handed_over();
        let (head, mut answer) = wire::head(&mut stream).await?;
        let length = content_length(&head).ok_or_else(|| io::Error::other("an answer without length"))?;
        while answer.len() < length {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if head.starts_with("HTTP/1.1 200") {
            answered(load, then_ns);
        } else {
            load.refuse(&answer);
        }
    }
    Ok(())
}

fn content_length(head: &str) -> Option<usize> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answers_length_is_found_however_it_is_spelt() {
        assert_eq!(content_length("HTTP/1.1 200 OK\r\nx: y\r\nContent-LENGTH:  12\r\n\r\n"), Some(12));
        assert_eq!(content_length("HTTP/1.1 200 OK\r\n\r\n"), None);
    }
}
