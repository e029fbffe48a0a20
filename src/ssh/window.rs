//! What the kernel has learnt of a connection's line: how many segments it lets be under way (RFC 5681).
//!
//! The socket is ssh's; what the kernel says of it to others stands in `proc(5)`, `/proc/net/tcp`. That is a list
//! of all connections, so whoever looks often looks first whether anything was lost at all.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// What the kernel counts, for the whole machine; and what it calls segments that were sent again.
const COUNTERS: &str = "/proc/self/net/snmp";
const SENT_AGAIN: &str = "RetransSegs";
/// The sockets of each family, of the process's network.
const TABLES: [&str; 2] = ["net/tcp", "net/tcp6"];
/// Where the columns are: the state, of which this is a connection's; the socket's inode; what may be under
/// way; and the threshold.
const STATE: usize = 3;
const ESTABLISHED: &str = "01";
const INODE: usize = 9;
const CONGESTION: usize = 15;
const THRESHOLD: usize = 16;

/// What went by now, as it is quick to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// How many bytes a connection's process has written in all, most of them to it.
    pub written: u64,
    /// How many segments were sent again by the whole machine, over TCP.
    pub sent_again: u64,
}

/// How much may be under way on a connection, in segments (mostly of 1448 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// So many now.
    pub congestion: u32,
    /// Up to so many it doubles with each round trip (slow start), beyond it grows slowly; none before the
    /// first loss.
    pub threshold: Option<u32>,
}

impl Traffic {
    /// That of the connection of a process of this user.
    pub(super) fn of_process(id: u32) -> Option<Self> {
        let io = fs::read_to_string(process(id).join("io")).ok()?;
        let written = io.lines().find_map(|line| line.strip_prefix("wchar: "))?.parse().ok()?;
        Some(Self { written, sent_again: sent_again(&fs::read_to_string(COUNTERS).ok()?)? })
    }
}

impl Window {
    /// That of the TCP connection of a process of this user. None where it has none: ssh goes by a proxy.
    pub fn of_process(id: u32) -> Option<Self> {
        let process = process(id);
        let sockets = sockets(&process)?;
        let find = |table: &&str| find(BufReader::new(File::open(process.join(table)).ok()?), &sockets);
        TABLES.iter().find_map(find)
    }

    /// How many segments may be under way within a few round trips; none where slow start goes on.
    pub fn soon(&self) -> Option<u32> {
        self.threshold.map(|threshold| threshold.max(self.congestion))
    }
}

fn process(id: u32) -> PathBuf {
    Path::new("/proc").join(id.to_string())
}

/// Of each protocol there is a line of names, and one of numbers.
fn sent_again(counters: &str) -> Option<u64> {
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let mut columns = lines.next()?.split(' ').zip(lines.next()?.split(' '));
    columns.find(|(name, _)| *name == SENT_AGAIN)?.1.parse().ok()
}

/// The inodes of a process's sockets.
fn sockets(process: &Path) -> Option<Vec<String>> {
    let descriptors = fs::read_dir(process.join("fd")).ok()?;
    let socket = |entry: std::io::Result<fs::DirEntry>| {
        let to = fs::read_link(entry.ok()?.path()).ok()?;
        Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    };
    Some(descriptors.filter_map(socket).collect())
}

/// What a table says of the first connection that has one of these inodes.
fn find(table: impl BufRead, inodes: &[String]) -> Option<Window> {
    let has_it = |line: &String| inodes.iter().any(|inode| line.contains(inode.as_str()));
    table.lines().map_while(Result::ok).filter(has_it).find_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        // -1 before the first loss; it is the last column that is read.
        let threshold = columns.get(THRESHOLD)?.parse().ok();
        let is_it = columns[STATE] == ESTABLISHED && inodes.iter().any(|inode| inode == columns[INODE]);
        is_it.then_some(Window { congestion: columns[CONGESTION].parse().ok()?, threshold })
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_connection_without_a_loss_has_no_threshold() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let program = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo hello >&3 && read -r end <&3");
        let mut other = Command::new("bash").args(["-c", &program]).spawn().unwrap();
        let mut there = listener.accept().unwrap().0;
        there.read_exact(&mut [0; 6]).unwrap();
        let (window, traffic) = (Window::of_process(other.id()), Traffic::of_process(other.id()));
        there.write_all(b"end\n").unwrap();
        assert!(other.wait().unwrap().success());
        let window = window.expect("it is found");
        assert_eq!((window.threshold, window.soon()), (None, None));
        assert_eq!(traffic.map(|traffic| traffic.written), Some(6));
        assert!(window.congestion >= 10, "{window:?}");
    }

    #[test]
    fn a_loss_shows_in_the_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 71 1 0 100 0 0 10 0
   1: 0A4D000A:C2D8 0B4D000A:0016 01 00000000:00000000 02:00000416 00000000   995        0 72 2 0 60 4 30 10 -1
   2: 0A4D000A:C2DA 0B4D000A:0016 01 00000000:00000000 02:00000416 00000000   995        0 73 2 0 60 4 30 9 7
   0: 00000000000000000000000001000000:C2DC 00000000000000000000000001000000:0016 01 \
                 00000000:00000000 02:00000416 00000000   995        0 74 2 0 60 4 30 200 140
";
        let found = |inodes: &[&str]| {
            let inodes: Vec<String> = inodes.iter().map(|inode| (*inode).to_owned()).collect();
            find(table.as_bytes(), &inodes)
        };
        let window = |congestion, threshold| Window { congestion, threshold };
        assert_eq!(found(&["72"]), Some(window(10, None)));
        assert_eq!(found(&["8", "73"]), Some(window(9, Some(7))));
        assert_eq!(found(&["74"]), Some(window(200, Some(140))), "over IPv6");
        assert_eq!(found(&["71"]), None, "it listens");
        assert_eq!(found(&["7"]), None);
    }

    #[test]
    fn what_was_sent_again_is_found_by_its_name() {
        let counters =
            "Icmp: InMsgs InErrors\nIcmp: 1 2\nTcp: RtoMin MaxConn RetransSegs InErrs\nTcp: 200 -1 42 0\n";
        assert_eq!(sent_again(counters), Some(42));
        assert_eq!(sent_again("Tcp: RtoMin\nTcp: 200\n"), None);
    }

    #[test]
    fn a_process_without_a_connection_has_none() {
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        assert_eq!(Window::of_process(other.id()), None);
        assert!(Traffic::of_process(other.id()).is_some());
        other.kill().and_then(|()| other.wait()).unwrap();
        assert_eq!(Window::of_process(other.id()), None, "it has ended");
        assert_eq!(Traffic::of_process(other.id()), None);
    }
}
