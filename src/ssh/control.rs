//! How a run comes to the connection that the agent keeps up: by a link with a fixed path, which leads to the
//! socket of the connection that is up.
//!
//! The socket's name tells where its connection goes. So nobody comes to a machine that is the target no more:
//! neither a run with new settings that is there before the agent has made its connection anew, nor one
//! with old settings that comes after it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::SystemTime;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use super::{Endpoint, Master};
use crate::failure::{Needs, Result};

/// How much of its digest stands for an endpoint, in hexadecimal digits: a socket's path has at most 107 bytes, and
/// ssh makes it with 17 more before it renames it.
const TAG: usize = 6;

/// The link to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control(PathBuf);

impl Control {
    /// The one with this path.
    pub fn at(link: PathBuf) -> Self {
        Self(link)
    }

    /// Where the socket of a new connection to `endpoint` is to lie, beside that of the one that is up: each removes
    /// its own when it ends.
    pub fn socket(&self, endpoint: &Endpoint, up: Option<&Master>) -> PathBuf {
        let [a, b] = self.sockets(endpoint);
        if up.is_some_and(|up| up.control() == a) { b } else { a }
    }

    /// Whoever comes by this link comes to this connection from now on.
    ///
    /// # Errors
    /// The link cannot be made.
    pub fn lead(&self, to: &Master) -> Result<()> {
        let (new, socket) = (self.with_end("new"), to.control().file_name().unwrap_or_default());
        // Of an agent that was killed.
        let _ = fs::remove_file(&new);
        let led = symlink(socket, &new).and_then(|()| fs::rename(&new, &self.0));
        led.later(format!("cannot have {} lead to the connection", self.0.display()))
    }

    /// It leads nowhere from now on.
    pub fn remove(&self) {
        let _ = fs::remove_file(&self.0);
    }

    /// The socket it leads to, if that is of a connection to `endpoint`; or of an agent that goes on from before an
    /// upgrade, whose sockets tell nothing.
    pub fn leads_to(&self, endpoint: &Endpoint) -> Option<PathBuf> {
        let socket = self.0.with_file_name(fs::read_link(&self.0).ok()?);
        let untold = ["a", "b"].map(|end| self.with_end(end));
        (self.sockets(endpoint).contains(&socket) || untold.contains(&socket)).then_some(socket)
    }

    /// When the connection was made.
    pub fn made(&self) -> Option<SystemTime> {
        fs::metadata(&self.0).ok()?.modified().ok()
    }

    /// The process that keeps the connection, if there is one.
    pub fn process(&self) -> Option<u32> {
        let peer = getsockopt(&UnixStream::connect(&self.0).ok()?, PeerCredentials).ok()?;
        peer.pid().try_into().ok()
    }

    /// The two sockets of connections to `endpoint`.
    fn sockets(&self, endpoint: &Endpoint) -> [PathBuf; 2] {
        let tag = tag(endpoint);
        ['a', 'b'].map(|end| self.with_end(&format!("{tag}{end}")))
    }

    fn with_end(&self, end: &str) -> PathBuf {
        PathBuf::from(format!("{}.{end}", self.0.display()))
    }
}

/// What stands for an endpoint in the names of sockets.
fn tag(Endpoint { host, port, user, known_hosts }: &Endpoint) -> String {
    let mut hasher = blake3::Hasher::new();
    for field in [host.as_bytes(), user.as_bytes(), known_hosts.as_os_str().as_bytes()] {
        hasher.update(&field.len().to_le_bytes()).update(field);
    }
    let mut tag = hasher.update(&port.to_le_bytes()).finalize().to_hex().to_string();
    tag.truncate(TAG);
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(host: &str, port: u16) -> Endpoint {
        Endpoint { host: host.into(), port, user: "pkgadmin".into(), known_hosts: "/known_hosts".into() }
    }

    #[test]
    fn it_leads_to_those_alone_who_mean_the_same_machine() {
        let folder = tempfile::tempdir().unwrap();
        let control = Control::at(folder.path().join("ssh"));
        let here = to("here", 22);
        assert_eq!(control.leads_to(&here), None);
        let socket = control.socket(&here, None);
        symlink(socket.file_name().unwrap(), folder.path().join("ssh")).unwrap();
        assert_eq!(control.leads_to(&here), Some(socket));
        for other in [to("here", 2222), to("there", 22), Endpoint { user: "other".into(), ..to("here", 22) }]
        {
            assert_eq!(control.leads_to(&other), None, "{other:?}");
        }
        control.remove();
        assert_eq!(control.leads_to(&here), None);
        symlink("ssh.b", folder.path().join("ssh")).unwrap();
        assert_eq!(control.leads_to(&here), Some(folder.path().join("ssh.b")), "of an agent of before");
    }

    #[test]
    fn the_longest_name_of_a_target_leaves_room_for_what_ssh_adds() {
        let longest = format!("/run/blat/{}/ssh.16", "n".repeat(64));
        let socket = Control::at(longest.into()).socket(&to("here", 22), None);
        assert!(socket.as_os_str().len() + 17 <= 107, "{}", socket.display());
    }
}
