//! What the kernel has learnt of a connection's line: how many segments it lets be under way (RFC 5681).
//!
//! The socket is ssh's; what the kernel says of it to others stands in `proc(5)`, `/proc/net/tcp`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;

/// The sockets of each family.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
/// Where the columns are: the state, of which this is a connection's; the socket's inode; what may be under
/// way; and the threshold.
const STATE: usize = 3;
const ESTABLISHED: &str = "01";
const INODE: usize = 9;
const CONGESTION: usize = 15;
const THRESHOLD: usize = 16;

/// How much may be under way on a connection, in segments (mostly of 1448 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// So many now.
    pub congestion: u32,
    /// Up to so many it doubles with each round trip (slow start), beyond it grows slowly; none before the
    /// first loss.
    pub threshold: Option<u32>,
    /// How many bytes its process has written in all, most of them to it.
    pub written: u64,
}

impl Window {
    /// That of the TCP connection of a process of this user. None where it has none: ssh goes by a proxy.
    pub(super) fn of_process(id: u32) -> Option<Self> {
        let process = Path::new("/proc").join(id.to_string());
        let sockets = sockets(&process)?;
        let find = |table: &&str| find(BufReader::new(File::open(table).ok()?), &sockets);
        let (congestion, threshold) = TABLES.iter().find_map(find)?;
        Some(Self { congestion, threshold, written: written(&process)? })
    }

    /// How many segments may be under way within a few round trips; none where slow start goes on.
    pub fn soon(&self) -> Option<u32> {
        self.threshold.map(|threshold| threshold.max(self.congestion))
    }
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
fn find(table: impl BufRead, inodes: &[String]) -> Option<(u32, Option<u32>)> {
    table.lines().map_while(Result::ok).find_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_it = *columns.get(STATE)? == ESTABLISHED && inodes.iter().any(|inode| inode == columns[INODE]);
        let congestion = columns.get(CONGESTION)?.parse().ok()?;
        // -1 before the first loss.
        is_it.then_some((congestion, columns.get(THRESHOLD)?.parse().ok()))
    })
}

fn written(process: &Path) -> Option<u64> {
    let io = fs::read_to_string(process.join("io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("wchar: "))?.parse().ok()
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
        let window = Window::of_process(other.id());
        there.write_all(b"end\n").unwrap();
        assert!(other.wait().unwrap().success());
        let window = window.expect("it is found");
        assert_eq!((window.threshold, window.soon(), window.written), (None, None, 6));
        assert!(window.congestion >= 10, "{window:?}");
    }

    #[test]
    fn a_loss_shows_in_the_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 71 1 0 100 0 0 10 0
   1: 0A4D000A:C2D8 0B4D000A:0016 01 00000000:00000000 02:00000416 00000000   995        0 72 2 0 60 4 30 10 -1
   2: 0A4D000A:C2DA 0B4D000A:0016 01 00000000:00000000 02:00000416 00000000   995        0 73 2 0 60 4 30 9 7
";
        let found = |inodes: &[&str]| {
            let inodes: Vec<String> = inodes.iter().map(|inode| (*inode).to_owned()).collect();
            find(table.as_bytes(), &inodes)
        };
        assert_eq!(found(&["72"]), Some((10, None)));
        assert_eq!(found(&["8", "73"]), Some((9, Some(7))));
        assert_eq!(found(&["74"]), Some((200, Some(140))), "over IPv6");
        assert_eq!(found(&["71"]), None, "it listens");
        assert_eq!(found(&["7"]), None);
    }

    #[test]
    fn a_process_without_a_connection_has_none() {
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        assert_eq!(Window::of_process(other.id()), None);
        other.kill().and_then(|()| other.wait()).unwrap();
        assert_eq!(Window::of_process(other.id()), None, "it has ended");
    }
}
