//! A proxy between blat and a server: it records what is asked, and answers itself, waits or calls
//! somebody in between where a test wants it to. It serves as the server's address, and as what
//! `HTTP_PROXY` and `HTTPS_PROXY` name.
//!
//! Each request goes over a connection of its own, so that it need not know where answers end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of a request.
pub(crate) enum Fate {
    Forward,
    /// It is answered so, and never forwarded: status line, further header lines, error code.
    Answer(&'static str, &'static str, &'static str),
}

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

type Rule = Box<dyn FnMut(&str) -> Fate + Send>;

#[derive(Clone)]
pub(crate) struct Proxy {
    address: String,
    seen: Arc<Mutex<Vec<String>>>,
    heads: Arc<Mutex<Vec<String>>>,
    rule: Arc<Mutex<Rule>>,
}

/// A request that is held.
pub(crate) struct Held {
    has_come: Receiver<()>,
    go_on: Sender<()>,
}

impl Held {
    /// Waits until it has come.
    pub(crate) fn comes(&self) {
        self.has_come.recv_timeout(PATIENCE).expect("it is asked");
    }

    pub(crate) fn goes_on(&self) {
        self.go_on.send(()).expect("it waits");
    }
}

impl Proxy {
    /// A proxy to `endpoint`, an `http://` address. It lives as long as the test's process.
    pub(crate) fn to(endpoint: &str) -> Self {
        let upstream = endpoint.strip_prefix("http://").expect("a plain address").to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let rule: Rule = Box::new(|_| Fate::Forward);
        let (seen, heads) = (Arc::default(), Arc::default());
        let proxy = Self { address, seen, heads, rule: Arc::new(Mutex::new(rule)) };
        let serving = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (proxy, upstream) = (serving.clone(), upstream.clone());
                std::thread::spawn(move || proxy.serve(client, &upstream));
            }
        });
        proxy
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, requests (`METHOD PATH?QUERY`) fare as `rule` says.
    pub(crate) fn rule(&self, rule: impl FnMut(&str) -> Fate + Send + 'static) {
        *self.rule.lock().expect("no panic") = Box::new(rule);
    }

    /// Holds the first of the requests that are `such`.
    pub(crate) fn hold_first(&self, such: impl Fn(&str) -> bool + Send + 'static) -> Held {
        let ((came, has_come), (go_on, goes_on)) = (channel(), channel());
        let mut first = true;
        self.rule(move |asked| {
            if such(asked) && std::mem::take(&mut first) {
                came.send(()).expect("somebody waits");
                goes_on.recv().expect("it is told");
            }
            Fate::Forward
        });
        Held { has_come, go_on }
    }

    /// What was asked since this was called last.
    pub(crate) fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().expect("no panic"))
    }

    /// The heads of all requests, whole.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panic").clone()
    }

    fn serve(&self, client: TcpStream, upstream: &str) -> Option<()> {
        let mut reader = BufReader::new(client.try_clone().ok()?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let asked = head.lines().next()?.rsplit_once(' ')?.0.to_owned();
        self.seen.lock().expect("no panic").push(asked.clone());
        self.heads.lock().expect("no panic").push(head.clone());
        if let Some(there) = asked.strip_prefix("CONNECT ") {
            return tunnel(reader, client, there);
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<u64>().ok())?
        });
        let fate = (self.rule.lock().expect("no panic"))(&asked);
        let mut body = reader.take(length.unwrap_or(0));
        match fate {
            Fate::Answer(status, headers, code) => {
                std::io::copy(&mut body, &mut std::io::sink()).ok()?;
                answer(client, &asked, status, headers, code)
            }
            Fate::Forward => {
                let mut server = TcpStream::connect(upstream).ok()?;
                let (line, rest) = head.split_once("\r\n")?;
                server.write_all(format!("{line}\r\nConnection: close\r\n{rest}").as_bytes()).ok()?;
                std::io::copy(&mut body, &mut server).ok()?;
                relay(server, client)
            }
        }
    }
}

fn relay(mut server: TcpStream, mut client: TcpStream) -> Option<()> {
    std::io::copy(&mut server, &mut client).ok()?;
    client.shutdown(Shutdown::Both).ok()
}

/// Passes bytes on, both ways, whatever they are.
fn tunnel(mut from_client: BufReader<TcpStream>, mut client: TcpStream, there: &str) -> Option<()> {
    let mut server = TcpStream::connect(there).ok()?;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").ok()?;
    let mut to_server = server.try_clone().ok()?;
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    std::io::copy(&mut server, &mut client).ok()?;
    client.shutdown(Shutdown::Both).ok()
}

fn answer(mut client: TcpStream, asked: &str, status: &str, headers: &str, code: &str) -> Option<()> {
    let body = match (asked.starts_with("HEAD"), code) {
        (true, _) | (_, "") => String::new(),
        _ => format!("<Error><Code>{code}</Code><Message>made up by the test</Message></Error>"),
    };
    let head =
        format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    client.write_all((head + &body).as_bytes()).ok()?;
    client.shutdown(Shutdown::Write).ok()
}
