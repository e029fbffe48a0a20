//! The web pages: how the targets stand, for people, for Prometheus and for programs. Read-only.
//!
//! `blat-web.socket` starts it on the first request; it ends when nobody asks any more. Each answer is
//! made of the files that `blat status` reads, so nothing is kept and nothing can be stale. No page
//! needs a script, or anything from elsewhere; every name is escaped, and the policy in the head of each
//! answer would have a browser run nothing even if one were not.

mod listen;
mod metrics;
mod pages;
mod plot;
mod style;

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use maud::Markup;
use serde::Deserialize;

use self::listen::Sockets;
use crate::config::TargetName;
use crate::explain::{self, Asked, Explanation};
use crate::failure::{Needs, Result};
use crate::status::{Fleet, text};

/// How long requests may take that are under way when it ends.
const LEAVE: Duration = Duration::from_secs(5);
/// So many connections are served at a time, of 1024 descriptors: the others are for files.
const MOST: usize = 256;
/// How long a connection may be silent: longer than one that is scraped every minute.
const PATIENCE: Duration = Duration::from_secs(90);
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
     base-uri 'none'; frame-ancestors 'none'";

/// What all requests share.
#[derive(Clone)]
struct Shared(Arc<Inside>);

struct Inside {
    root: PathBuf,
    open: AtomicUsize,
    last: Mutex<Instant>,
}

/// A request that is under way, until the value goes: also where its client has gone before the answer.
struct UnderWay<'a>(&'a Inside);

impl<'a> UnderWay<'a> {
    fn new(inside: &'a Inside) -> Self {
        inside.open.fetch_add(1, Ordering::Relaxed);
        Self(inside)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        *self.0.last.lock().expect("no holder panics") = Instant::now();
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves on each of the sockets what lies below `root`, until nobody has asked for `idle`.
///
/// # Errors
/// When a socket cannot be used.
pub async fn serve(sockets: Vec<TcpListener>, root: PathBuf, idle: Option<Duration>) -> Result<()> {
    let listener = Sockets::new(sockets, MOST, PATIENCE).person("cannot use the listening sockets")?;
    serve_on(listener, root, idle).await
}

async fn serve_on(listener: Sockets, root: PathBuf, idle: Option<Duration>) -> Result<()> {
    let shared =
        Shared(Arc::new(Inside { root, open: AtomicUsize::new(0), last: Mutex::new(Instant::now()) }));
    let served =
        axum::serve(listener, router(shared.clone())).with_graceful_shutdown(shared.clone().unused(idle));
    // A client that holds its connection open must not keep all of it.
    let late = async {
        shared.unused(idle).await;
        tokio::time::sleep(LEAVE).await;
    };
    tokio::select! {
        ended = served => ended.later("cannot serve"),
        () = late => Ok(()),
    }
}

impl Shared {
    /// Waits until nobody has asked for so long.
    async fn unused(self, idle: Option<Duration>) {
        let Some(idle) = idle else { return std::future::pending().await };
        loop {
            let gone = self.0.last.lock().expect("no holder panics").elapsed();
            if self.0.open.load(Ordering::Relaxed) == 0 && gone >= idle {
                return;
            }
            tokio::time::sleep(idle.saturating_sub(gone).max(Duration::from_millis(100))).await;
        }
    }

    async fn fleet(&self, only: Option<TargetName>) -> Option<Fleet> {
        let root = self.0.root.clone();
        let gather = move || Fleet::gather(&root, only.as_ref(), SystemTime::now());
        tokio::task::spawn_blocking(gather).await.ok().flatten()
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/target/{name}", get(target))
        .route("/package", get(package))
        .route("/metrics", get(metrics_answer))
        .route("/api/status", get(api))
        .route("/style.css", get(|| async { of_kind("text/css; charset=utf-8", style::CSS) }))
        .route("/icon.svg", get(|| async { of_kind("image/svg+xml", style::ICON) }))
        .fallback(|| async { missing("There is no such page.") })
        .layer(middleware::from_fn_with_state(shared.clone(), around))
        .with_state(shared)
}

/// Counts the request, and gives the answer its head.
async fn around(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let _under_way = UnderWay::new(&shared.0);
    let mut response = next.run(request).await;
    let head = response.headers_mut();
    head.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    head.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    head.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    head.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn of_kind(kind: &'static str, body: impl Into<String>) -> Response {
    ([(header::CONTENT_TYPE, kind)], body.into()).into_response()
}

fn page(markup: Markup) -> Response {
    of_kind("text/html; charset=utf-8", markup.into_string())
}

fn missing(why: &str) -> Response {
    (StatusCode::NOT_FOUND, page(pages::missing(why))).into_response()
}

async fn index(State(shared): State<Shared>) -> Response {
    let Some(fleet) = shared.fleet(None).await else { return missing("Nothing can be read.") };
    let root = shared.0.root.clone();
    let made = tokio::task::spawn_blocking(move || pages::index(&root, &fleet)).await;
    made.map_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response(), page)
}

async fn target(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    let Ok(name) = name.parse::<TargetName>() else { return missing("There is no such target.") };
    let Some(fleet) = shared.fleet(Some(name)).await else { return missing("There is no such target.") };
    let root = shared.0.root.clone();
    let made = tokio::task::spawn_blocking(move || pages::target(&root, &fleet)).await;
    made.map_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response(), page)
}

#[derive(Deserialize)]
struct Wanted {
    name: Option<String>,
}

async fn package(State(shared): State<Shared>, Query(wanted): Query<Wanted>) -> Response {
    let name = wanted.name.unwrap_or_default().trim().to_owned();
    if name.is_empty() {
        return page(pages::package("", Ok(&Explanation::default())));
    }
    let (root, asked) = (shared.0.root.clone(), name.clone());
    let explained = tokio::task::spawn_blocking(move || {
        explain::explain(&root, &Asked { package: &asked, version: None, target: None })
    });
    match explained.await {
        Ok(Ok(all)) => page(pages::package(&name, Ok(&all))),
        Ok(Err(why)) => page(pages::package(&name, Err(&why.to_string()))),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn metrics_answer(State(shared): State<Shared>, head: HeaderMap) -> Response {
    let Some(fleet) = shared.fleet(None).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let accepts = head.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/plain") && !accepts.contains("openmetrics") {
        return of_kind("text/plain; version=0.0.4; charset=utf-8", metrics::plain(&metrics::open(&fleet)));
    }
    of_kind("application/openmetrics-text; version=1.0.0; charset=utf-8", metrics::open(&fleet))
}

async fn api(State(shared): State<Shared>) -> Response {
    match shared.fleet(None).await {
        Some(fleet) => of_kind("application/json", text::json(&fleet)),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::net::{SocketAddr, TcpListener};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::{sleep, timeout};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const ASK: &[u8] = b"GET /style.css HTTP/1.1\r\nHost: x\r\n\r\n";

    fn socket() -> (TcpListener, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    /// The first bytes of the answer, or none where the connection was ended.
    async fn answer(stream: &mut TcpStream) -> String {
        let mut bytes = [0; 12];
        let count = timeout(SOON, stream.read(&mut bytes)).await.expect("it answers").unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn each_socket_is_served() {
        let ((first, one), (second, other)) = (socket(), socket());
        let served = tokio::spawn(serve(vec![first, second], "/nowhere".into(), None));
        for address in [one, other, one] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(ASK).await.unwrap();
            assert_eq!(answer(&mut stream).await, "HTTP/1.1 200");
        }
        served.abort();
    }

    #[tokio::test]
    async fn a_silent_connection_gives_its_place_to_the_next() {
        let (socket, address) = socket();
        let sockets = Sockets::new(vec![socket], 1, Duration::from_millis(300)).unwrap();
        let served = tokio::spawn(serve_on(sockets, "/nowhere".into(), None));
        let (mut silent, mut asked) =
            (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
        silent.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        asked.write_all(ASK).await.unwrap();
        assert_eq!(answer(&mut asked).await, "HTTP/1.1 200");
        assert_eq!(answer(&mut silent).await, "", "it was ended");
        served.abort();
    }

    #[tokio::test]
    async fn it_ends_although_a_client_did_not_wait_for_its_answer() {
        let root = tempfile::tempdir().unwrap();
        // Whoever reads it waits until somebody writes.
        let file = root.path().join("etc/blat/blat.toml");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (socket, address) = socket();
        let idle = Some(Duration::from_secs(2));
        let mut served = tokio::spawn(serve(vec![socket], root.path().to_owned(), idle));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        sleep(Duration::from_millis(500)).await;
        assert!(!served.is_finished(), "the request is under way");
        drop(stream);
        let ended = timeout(SOON, &mut served).await;
        // Lets the reader go on to its end, or the test waits for it.
        let _ = OpenOptions::new().write(true).open(&file);
        assert!(ended.is_ok(), "it does not end");
    }
}
