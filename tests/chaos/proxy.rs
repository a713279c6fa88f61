//! A TCP proxy between a node and Redis, that can be cut: connections closed and refused, or open and silent.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Connections are closed, and those that come are closed at once.
    Closed,
    /// Connections stay open and new ones are taken, but nothing comes through in either direction.
    Silent,
}

/// A proxy that listens. Ends when dropped.
pub struct Proxy {
    pub port: u16,
    way: Arc<watch::Sender<Way>>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Listens, and passes on to `target` on this machine.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port for the proxy");
        let port = listener.local_addr().expect("the proxy's address").port();
        let way = Arc::new(watch::Sender::new(Way::Open));
        let task = tokio::spawn(serve(listener, target, way.clone()));
        Self { port, way, task }
    }

    /// From now on.
    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.way.send_replace(Way::Closed);
    }
}

async fn serve(listener: TcpListener, target: u16, way: Arc<watch::Sender<Way>>) {
    while let Ok((inner, _)) = listener.accept().await {
        let way = way.subscribe();
        tokio::spawn(async move {
            let mut opening = way.clone();
            // A connection that was opened into silence gets through once there is a way.
            if opening.wait_for(|way| *way != Way::Silent).await.is_err() || *way.borrow() == Way::Closed {
                return;
            }
            let Ok(outer) = TcpStream::connect(("127.0.0.1", target)).await else { return };
            inner.set_nodelay(true).ok();
            outer.set_nodelay(true).ok();
            let (inner_read, inner_write) = inner.into_split();
            let (outer_read, outer_write) = outer.into_split();
            tokio::select! {
                () = copy(inner_read, outer_write, way.clone()) => {}
                () = copy(outer_read, inner_write, way.clone()) => {}
                _ = opening.wait_for(|way| *way == Way::Closed) => {}
            }
        });
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if way.wait_for(|way| *way != Way::Silent).await.is_err()
            || to.write_all(&buffer[..read]).await.is_err()
        {
            return;
        }
    }
    // An end that comes into silence is not passed on before there is a way again.
    way.wait_for(|way| *way != Way::Silent).await.ok();
}
