//! The connections: from every socket that there is, so many at a time, and none that is silent for long.
//!
//! A browser that vanished, or a program that only connects, would hold a descriptor for ever. Here it holds one
//! of a number that leaves enough to read files by, and for a while.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// How long to wait where no connection can be taken.
const PAUSE: Duration = Duration::from_millis(100);

/// The sockets on which clients come.
pub(super) struct Sockets {
    sockets: Vec<TcpListener>,
    room: Arc<Semaphore>,
    patience: Duration,
}

impl Sockets {
    /// Takes at most `most` connections at a time, and ends one where nothing has moved for `patience`.
    pub(super) fn new(
        sockets: Vec<std::net::TcpListener>,
        most: usize,
        patience: Duration,
    ) -> io::Result<Self> {
        let asynchronous = |socket: std::net::TcpListener| {
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        };
        let sockets = sockets.into_iter().map(asynchronous).collect::<io::Result<_>>()?;
        Ok(Self { sockets, room: Arc::new(Semaphore::new(most)), patience })
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let accepted = self.sockets.iter().map(|socket| socket.poll_accept(context));
        accepted.into_iter().find(Poll::is_ready).unwrap_or(Poll::Pending)
    }
}

impl Listener for Sockets {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let room = Arc::clone(&self.room).acquire_owned().await.expect("nobody closes it");
        loop {
            if let Ok((stream, address)) = poll_fn(|context| self.poll_accept(context)).await {
                let connection = Connection {
                    stream,
                    patience: self.patience,
                    end: Box::pin(sleep(self.patience)),
                    _room: room,
                };
                return (connection, address);
            }
            sleep(PAUSE).await;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.sockets.first().ok_or(ErrorKind::NotConnected)?.local_addr()
    }
}

/// A client's connection.
pub(super) struct Connection {
    stream: TcpStream,
    patience: Duration,
    /// When it ends if nothing moves.
    end: Pin<Box<Sleep>>,
    _room: OwnedSemaphorePermit,
}

impl Connection {
    /// What came of reading or writing; where nothing did for too long, an error.
    fn moved<T>(&mut self, context: &mut Context<'_>, what: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if what.is_ready() {
            self.end.as_mut().reset(Instant::now() + self.patience);
            return what;
        }
        ready!(self.end.as_mut().poll(context));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.moved(context, read)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.moved(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
