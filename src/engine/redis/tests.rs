//! A Redis that says what a test wants: for what a real one does only now and then, or not where a test can see it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};

use super::scripts::Timer;
use super::server::{Options, Place, Server, Wait};
use super::*;

/// Starts one that gives these answers, whole lines, to commands, words with spaces between; none ends the connection.
pub async fn fake(answer: impl FnMut(&str) -> Option<&'static str> + Send + 'static) -> ConnectionInfo {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(Mutex::new(answer));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(serve(stream, move |command| answer.lock().unwrap()(command)));
        }
    });
    format!("redis://{address}").into_connection_info().unwrap()
}

/// None: the connection has ended.
async fn serve(stream: TcpStream, mut answer: impl FnMut(&str) -> Option<&'static str>) -> Option<()> {
    let mut stream = BufStream::new(stream);
    loop {
        let mut words = Vec::new();
        for _ in 0..number(&mut stream).await? {
            let mut word = vec![0; number(&mut stream).await?];
            stream.read_exact(&mut word).await.ok()?;
            words.push(String::from_utf8(word).unwrap());
            stream.read_line(&mut String::new()).await.ok()?;
        }
        stream.write_all(format!("{}\r\n", answer(&words.join(" "))?).as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
    }
}

/// How many words a command has, or how many bytes a word: a mark and a number.
async fn number(stream: &mut BufStream<TcpStream>) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.get(1..)?.trim_end().parse().ok()
}

#[tokio::test]
async fn a_connection_that_broke_under_a_command_for_a_moving_slot_is_not_used_again() {
    let mut breaks = true;
    let place = fake(move |command| match command {
        "ASKING" if std::mem::take(&mut breaks) => None,
        _ => Some("+OK"),
    });
    let options = Options {
        pool_size: 1,
        wait: Wait { replicas: 0, timeout: Duration::ZERO },
        timer: Arc::new(Timer::new(&Metrics::new("n", SCRIPTS).unwrap())),
        doubts: Arc::default(),
    };
    let server = Server::new("fake", Place::Fixed(place.await), options);
    let mut command = redis::cmd("SMEMBERS");
    command.arg("user:42");
    server.ask(&command, false).await.unwrap_err();
    server.ask(&command, false).await.unwrap();
}
