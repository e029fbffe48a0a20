//! What the kernel has learnt of a connection's line: how many segments it lets be under way (RFC 5681).
//!
//! The socket is ssh's. Which one stands in `proc(5)`, `/proc/net/tcp`, once: that list takes the kernel
//! milliseconds to write, however few connections there are. What it says of the one is then asked by its
//! addresses, `sock_diag(7)`, which takes microseconds.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use nix::libc;
use nix::net::if_::if_nameindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// The sockets of each family, of the process's network.
const TABLES: [&str; 2] = ["net/tcp", "net/tcp6"];
/// Where the columns are: both addresses, the state, of which this is a connection's, and the socket's inode.
const HERE: usize = 1;
const THERE: usize = 2;
const STATE: usize = 3;
const ESTABLISHED: &str = "01";
const INODE: usize = 9;
/// The threshold before the first loss; in Linux `TCP_INFINITE_SSTHRESH`.
const NO_THRESHOLD: u32 = 0x7fff_ffff;
/// More than the kernel says of one socket.
const ANSWER_MAX: usize = 4096;
/// The kernel compares no cookie with this one.
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// What the kernel says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpState {
    pub window: Window,
    /// How many bytes were sent in all; before Linux 4.19, those that the other end has acknowledged.
    pub sent: u64,
    /// How many segments were sent again in all.
    pub sent_again: u32,
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

/// A TCP connection of a process, by which the kernel knows it.
#[derive(Debug)]
pub struct Tcp {
    place: Place,
    /// By this the kernel is asked: who asks often saves making it.
    kernel: OwnedFd,
}

/// Where the kernel finds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    id: SocketId,
    /// Whoever has the same addresses later has another.
    inode: u32,
}

impl Place {
    fn new(here: SocketAddr, there: SocketAddr, inode: u32) -> Self {
        let id = SocketId {
            source_port: here.port(),
            destination_port: there.port(),
            source_address: here.ip(),
            destination_address: there.ip(),
            interface_id: 0,
            cookie: ANY_COOKIE,
        };
        Self { id, inode }
    }
}

impl Tcp {
    /// That of a process of this user. None where it has none: ssh goes by a proxy.
    pub fn of_process(id: u32) -> Option<Self> {
        let process = process(id);
        let inodes = sockets(&process)?;
        let find = |table: &&str| find(BufReader::new(File::open(process.join(table)).ok()?), &inodes);
        Self::at(TABLES.iter().find_map(find)?)
    }

    fn at(place: Place) -> Option<Self> {
        let kernel = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        );
        let mut tcp = Self { place, kernel: kernel.ok()? };
        if tcp.state().is_none() {
            tcp.place.id.interface_id = tcp.interface().unwrap_or_default();
        }
        Some(tcp)
    }

    /// The one that it is bound to, as to a link-local address, or in a VRF: the tables do not tell, and the kernel
    /// finds such a socket by that only.
    fn interface(&mut self) -> Option<u32> {
        let all = if_nameindex().ok()?;
        all.iter().map(|one| one.index()).find(|index| {
            self.place.id.interface_id = *index;
            self.state().is_some()
        })
    }

    /// What it says now; none where the connection has ended, where the kernel says nothing of sockets (it has no
    /// module `tcp_diag`, and may load none, or is older than Linux 4.1), and to a process whose network is another.
    pub fn state(&self) -> Option<TcpState> {
        let Place { id, inode } = &self.place;
        let request = InetRequest {
            family: if id.source_address.is_ipv4() { AF_INET } else { AF_INET6 },
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::INFO,
            states: StateFlags::all(),
            socket_id: id.clone(),
        };
        let SockDiagMessage::InetResponse(answer) = self.ask(SockDiagMessage::InetRequest(request))? else {
            return None;
        };
        answer.nlas.iter().filter(|_| answer.header.inode == *inode).find_map(|attribute| match attribute {
            Nla::TcpInfo(info) => TcpState::of(info),
            _ => None,
        })
    }

    /// What the kernel answers. It has the answer by the time that the question is sent.
    fn ask(&self, question: SockDiagMessage) -> Option<SockDiagMessage> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        let mut message = NetlinkMessage::new(header, question.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let kernel = self.kernel.as_raw_fd();
        send(kernel, &bytes, MsgFlags::empty()).ok()?;
        bytes.resize(ANSWER_MAX, 0);
        let length = recv(kernel, &mut bytes, MsgFlags::MSG_DONTWAIT).ok()?;
        match NetlinkMessage::<SockDiagMessage>::deserialize(&bytes[..length]).ok()?.payload {
            NetlinkPayload::InnerMessage(answer) => Some(answer),
            _ => None,
        }
    }
}

impl TcpState {
    /// That of a `struct tcp_info`, which is the longer the younger the kernel.
    fn of(info: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_ne_bytes(*info.get(at..)?.first_chunk()?));
        let threshold = number(offset_of!(libc::tcp_info, tcpi_snd_ssthresh))?;
        let congestion = number(offset_of!(libc::tcp_info, tcpi_snd_cwnd))?;
        let long = |at: usize| Some(u64::from_ne_bytes(*info.get(at..)?.first_chunk()?));
        let sent = long(offset_of!(libc::tcp_info, tcpi_bytes_sent));
        Some(Self {
            window: Window { congestion, threshold: (threshold < NO_THRESHOLD).then_some(threshold) },
            sent: sent.or_else(|| long(offset_of!(libc::tcp_info, tcpi_bytes_acked)))?,
            sent_again: number(offset_of!(libc::tcp_info, tcpi_total_retrans))?,
        })
    }
}

impl Window {
    /// How many segments may be under way within a few round trips; none where slow start goes on.
    pub fn soon(&self) -> Option<u32> {
        self.threshold.map(|threshold| threshold.max(self.congestion))
    }
}

fn process(id: u32) -> PathBuf {
    Path::new("/proc").join(id.to_string())
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

/// The first connection of a table that has one of these inodes.
fn find(table: impl BufRead, inodes: &[String]) -> Option<Place> {
    let has_it = |line: &String| inodes.iter().any(|inode| line.contains(inode.as_str()));
    table.lines().map_while(Result::ok).filter(has_it).find_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let inode = *columns.get(INODE)?;
        if columns[STATE] != ESTABLISHED || !inodes.iter().any(|one| one == inode) {
            return None;
        }
        Some(Place::new(address(columns[HERE])?, address(columns[THERE])?, inode.parse().ok()?))
    })
}

/// An address and port, as tables have them: words of memory in hexadecimal, and a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| {
        let word = u32::from_str_radix(address.get(8 * at..8 * (at + 1))?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;

    use nix::sys::socket::sockopt::BindToDevice;
    use nix::sys::socket::{SockaddrIn, connect, setsockopt};
    use nix::sys::stat::fstat;

    use super::*;

    #[test]
    fn the_kernel_tells_of_a_connection_of_either_family_until_it_ends() {
        for address in ["127.0.0.1", "::1"] {
            let listener = match TcpListener::bind((address, 0)) {
                Err(why) if why.kind() == io::ErrorKind::AddrNotAvailable => {
                    println!("this machine has no {address}, so nothing is tried over it");
                    continue;
                }
                bound => bound.unwrap(),
            };
            let port = listener.local_addr().unwrap().port();
            let program = format!("exec 3<>/dev/tcp/{address}/{port} && echo hello >&3 && read -r end <&3");
            let mut other = Command::new("bash").args(["-c", &program]).spawn().unwrap();
            let mut there = listener.accept().unwrap().0;
            there.read_exact(&mut [0; 6]).unwrap();
            let tcp = Tcp::of_process(other.id()).expect("it is found");
            let state = tcp.state();
            there.write_all(b"end\n").unwrap();
            assert!(other.wait().unwrap().success());
            let TcpState { window, sent, sent_again } = state.expect("the kernel tells");
            assert_eq!((window.threshold, window.soon(), sent_again), (None, None, 0), "nothing was lost");
            assert_eq!(sent, 6);
            assert!(window.congestion >= 10, "{window:?}");
            drop(there);
            assert_eq!(tcp.state(), None, "{address}: it has ended");
        }
    }

    #[test]
    fn who_has_the_same_addresses_later_is_another() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut tcp = Tcp::at(place(&here)).unwrap();
        assert!(tcp.state().is_some() && tcp.state().is_some());
        tcp.place.inode += 1;
        assert_eq!(tcp.state(), None);
    }

    #[test]
    fn a_connection_that_is_bound_to_an_interface_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp).unwrap();
        setsockopt(&here, BindToDevice, &"lo".into()).unwrap();
        let SocketAddr::V4(there) = listener.local_addr().unwrap() else { panic!("it has four numbers") };
        connect(here.as_raw_fd(), &SockaddrIn::from(there)).unwrap();
        let here = TcpStream::from(here);
        assert_eq!(Tcp::at(place(&here)).unwrap().state().unwrap().sent_again, 0);
    }

    fn place(connection: &TcpStream) -> Place {
        let (here, there) = (connection.local_addr().unwrap(), connection.peer_addr().unwrap());
        Place::new(here, there, fstat(connection).unwrap().st_ino as u32)
    }

    #[test]
    fn a_loss_shows_in_what_the_kernel_tells() {
        let mut info = vec![0; 240];
        (info[120], info[200]) = (4, 5);
        for (at, number) in [(76, 7), (80, 9), (100, 3)] {
            info[at] = number;
        }
        let state =
            |threshold, sent| TcpState { window: Window { congestion: 9, threshold }, sent, sent_again: 3 };
        assert_eq!(TcpState::of(&info), Some(state(Some(7), 5)));
        info[76..80].copy_from_slice(&NO_THRESHOLD.to_ne_bytes());
        assert_eq!(TcpState::of(&info), Some(state(None, 5)));
        info.truncate(128);
        assert_eq!(TcpState::of(&info), Some(state(None, 4)), "of an old kernel");
        info.truncate(127);
        assert_eq!(TcpState::of(&info), None, "of an older one");
    }

    #[test]
    fn a_connection_is_found_by_its_inode() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 71 1 0 100 0 0 10 0
   1: 0A4D000A:C2D8 0B4D000A:0016 01 00000000:00000000 02:00000416 00000000   995        0 72 2 0 60 4 30 10 -1
   2: 0A4D000A:C2DA 0B4D000A:0016 01 00000000:00000000 02:00000416 00000000   995        0 73 2 0 60 4 30 9 7
   0: 00000000000000000000000001000000:C2DC 00000000000000000000000001000000:0016 01 \
                 00000000:00000000 02:00000416 00000000   995        0 74 2 0 60 4 30 200 140
";
        let found = |inodes: &[&str]| {
            let inodes: Vec<String> = inodes.iter().map(|inode| (*inode).to_owned()).collect();
            let Place { id, inode } = find(table.as_bytes(), &inodes)?;
            let (here, there) = (id.source_address.to_string(), id.destination_address.to_string());
            Some((format!("{here} {} {there} {}", id.source_port, id.destination_port), inode))
        };
        assert_eq!(found(&["72"]), Some(("10.0.77.10 49880 10.0.77.11 22".into(), 72)));
        assert_eq!(found(&["8", "73"]), Some(("10.0.77.10 49882 10.0.77.11 22".into(), 73)));
        assert_eq!(found(&["74"]), Some(("::1 49884 ::1 22".into(), 74)), "over IPv6");
        assert_eq!(found(&["71"]), None, "it listens");
        assert_eq!(found(&["7"]), None);
    }

    #[test]
    fn a_process_without_a_connection_has_none() {
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(Tcp::of_process(other.id()).is_none());
        other.kill().and_then(|()| other.wait()).unwrap();
        assert!(Tcp::of_process(other.id()).is_none(), "it has ended");
    }
}
