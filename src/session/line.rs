//! The connection under a WebSocket, with a way past the library's buffers.
//!
//! The one it writes to grows to the largest frame that there ever was, and never shrinks: with it, an event of 1 MiB for
//! everyone would cost 1 MiB for each socket until its end. So large frames go out from here, as they are and without a
//! copy. Frames do not mix: what is here goes out before anything that the library writes, and [`Line::put`] is for when
//! the library has nothing left to write.
//!
//! The one it reads into is there as long as the socket, and bounds what is read at once. Where it is small, what comes is
//! read into a buffer that all sockets of a thread share, and what the library has no room for waits here.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::poll_proceed;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

/// Room enough in the library's buffer to read into that: a worker's has it.
const ROOM: usize = 1024;
/// Bytes that are read at once where there is less.
const MOST_READ: usize = 4 * 1024;
/// Bytes of them that are as much of a task's turn as a read is.
const TURN: usize = 512;

thread_local! {
    static SHARED: RefCell<Vec<u8>> = RefCell::new(vec![0; MOST_READ]);
}

/// The connection.
pub struct Line<S> {
    stream: S,
    /// What was read and the library has no room for yet, at most [`MOST_READ`] bytes but behind a handshake. Boxed: most
    /// peers send little, and wait for an answer.
    ahead: Option<Box<Bytes>>,
    /// At most one frame: its header, and its payload.
    out: VecDeque<Bytes>,
    /// Since the beginning; what went, as far as this system has taken it.
    pub moved: Moved,
}

/// Bytes that have gone each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// From the peer.
    pub came: u64,
    /// To it.
    pub went: u64,
}

impl<S> Line<S> {
    /// A line on a stream, of which `came` was read already: that does not count as moved.
    pub fn new(stream: S, came: Vec<u8>) -> Self {
        let ahead = (!came.is_empty()).then(|| Box::new(came.into()));
        Self { stream, ahead, out: VecDeque::new(), moved: Moved::default() }
    }

    /// What is under it.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Puts a text frame out; a flush writes it.
    pub fn put(&mut self, text: Bytes) {
        let header = FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
        let mut bytes = Vec::with_capacity(10);
        // Memory takes whatever is written to it.
        let _ = header.format(text.len() as u64, &mut bytes);
        self.out.extend([bytes.into(), text]);
    }
}

impl<S: AsyncWrite + Unpin> Line<S> {
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2];
            for (slice, bytes) in slices.iter_mut().zip(&self.out) {
                *slice = IoSlice::new(bytes);
            }
            let mut written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices))?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.moved.went += written as u64;
            while let Some(first) = self.out.front_mut() {
                let count = written.min(first.len());
                first.advance(count);
                written -= count;
                if !first.is_empty() {
                    break;
                }
                self.out.pop_front();
            }
        }
        self.out = VecDeque::new();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let line = &mut *self;
        if let Some(ahead) = &mut line.ahead {
            let count = ahead.len().min(buffer.remaining());
            if ahead.len() / TURN != (ahead.len() - count) / TURN {
                ready!(poll_proceed(cx)).made_progress();
            }
            buffer.put_slice(&ahead[..count]);
            ahead.advance(count);
            if ahead.is_empty() {
                line.ahead = None;
            }
            return Poll::Ready(Ok(()));
        }
        if buffer.remaining() >= ROOM {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut line.stream).poll_read(cx, buffer))?;
            line.moved.came += (buffer.filled().len() - before) as u64;
            return Poll::Ready(Ok(()));
        }
        SHARED.with_borrow_mut(|shared| {
            let mut shared = ReadBuf::new(shared);
            ready!(Pin::new(&mut line.stream).poll_read(cx, &mut shared))?;
            let came = shared.filled();
            line.moved.came += came.len() as u64;
            let (taken, ahead) = came.split_at(came.len().min(buffer.remaining()));
            buffer.put_slice(taken);
            line.ahead = (!ahead.is_empty()).then(|| Box::new(Bytes::copy_from_slice(ahead)));
            Poll::Ready(Ok(()))
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_out(cx))?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.moved.went += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What has not gone out by now is not waited for.
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::pin;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// The first byte of a text frame that is whole.
    const TEXT: u8 = 0x81;

    #[tokio::test]
    async fn a_frame_goes_out_whole_before_anything_else() {
        for length in [0, 125, 126, 65_535, 65_536, 200_000] {
            let (here, mut there) = tokio::io::duplex(1000);
            let mut line = Line::new(here, Vec::new());
            line.put("x".repeat(length).into());
            if length > 1000 {
                assert!(line.write(b"next").now_or_never().is_none(), "it is in the middle of a frame");
            }
            let reading = tokio::spawn(async move {
                let mut read = Vec::new();
                there.read_to_end(&mut read).await.unwrap();
                read
            });
            line.write_all(b"next").await.unwrap();
            drop(line);
            let read = reading.await.unwrap();
            let header = match length {
                0..126 => vec![TEXT, length as u8],
                126..65_536 => [&[TEXT, 126][..], &(length as u16).to_be_bytes()].concat(),
                _ => [&[TEXT, 127][..], &(length as u64).to_be_bytes()].concat(),
            };
            assert_eq!(read[..header.len()], header);
            assert_eq!(read.len(), header.len() + length + 4, "{length}");
            assert!(read.ends_with(b"next"));
        }
    }

    #[tokio::test]
    async fn what_comes_is_read_at_once_and_taken_by_and_by() {
        for room in [1, 64, ROOM - 1, ROOM, 4 * ROOM, 16 * ROOM] {
            let (here, mut there) = tokio::io::duplex(2 * MOST_READ);
            let mut line = Line::new(here, b"first ".to_vec());
            let sent: Vec<u8> = (0..MOST_READ + 1000).map(|at| at as u8).collect();
            there.write_all(&sent).await.unwrap();
            drop(there);
            let (mut read, mut came) = (Vec::new(), Vec::new());
            loop {
                let mut buffer = vec![0; room];
                let count = line.read(&mut buffer).await.unwrap();
                if count == 0 {
                    break;
                }
                read.extend_from_slice(&buffer[..count]);
                came.push(line.moved.came);
            }
            assert_eq!(read, [b"first ", &sent[..]].concat(), "{room}");
            came.dedup();
            let most = if room < ROOM { MOST_READ } else { room };
            assert_eq!(came.len(), 1 + sent.len().div_ceil(most), "{room}: {came:?}");
        }
    }

    #[tokio::test]
    async fn who_takes_all_that_has_come_leaves_others_their_turn() {
        const MUCH: usize = 1024 * 1024;
        let (here, _there) = tokio::io::duplex(1);
        let mut line = Line::new(here, vec![0; MUCH]);
        let mut read_all = pin!(async {
            let mut taken = 0;
            while taken < MUCH {
                taken += line.read(&mut [0]).await.unwrap();
            }
        });
        let at_once = poll_fn(|cx| Poll::Ready(read_all.as_mut().poll(cx).is_ready())).await;
        assert!(!at_once);
        read_all.await;
    }

    #[tokio::test]
    async fn a_flush_waits_for_the_frame() {
        let (here, mut there) = tokio::io::duplex(1000);
        let mut line = Line::new(here, Vec::new());
        line.put("x".repeat(1500).into());
        assert!(line.flush().now_or_never().is_none());
        let mut read = [0; 1504];
        let (flushed, whole) = tokio::join!(line.flush(), there.read_exact(&mut read));
        assert!(flushed.is_ok() && whole.is_ok());
    }
}
