//! The helper's own replacement by the build that belongs to the host, through a session.
//!
//! It is written beside the running program, checked, synced, tried (by the word of the new program
//! itself), and renamed into its place: a session that runs keeps the program that it started, and the
//! next finds the old one or the new one, whole. A crash leaves at most the draft, which a later
//! replacement by the same build replaces.
//!
//! What somebody else owns, root's package above all, is never replaced; nor is anything where the
//! command line of the session does not allow it ([`crate::command_line`]).

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{AccessFlags, access, geteuid};

use crate::inflate::Packed;
use crate::message::{Digest, Outcome, Refusal};
use crate::refusal::{Stop, errno, refusal};
use crate::whole_file::Announced;

/// The longest helper, in bytes.
pub(crate) const HELPER_MAX: u64 = 64 << 20;

/// The running program's place.
pub(crate) struct Place(PathBuf);

impl Place {
    /// Where the running program lies, if the transfer user may replace it.
    pub(crate) fn find() -> Result<Self, Refusal> {
        let cannot = |why: io::Error| refusal("find the helper's own file", errno(&why));
        let path = fs::read_link("/proc/self/exe").map_err(cannot)?;
        // The kernel calls it `… (deleted)` when it was replaced meanwhile.
        let owner = match fs::symlink_metadata(&path) {
            Ok(found) => found.uid(),
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                return Err(Refusal::later("the helper was replaced while this session ran"));
            }
            Err(why) => return Err(cannot(why)),
        };
        if owner != geteuid().as_raw() {
            return Err(Refusal::person(format!(
                "{} is not the transfer user's own, and is left to its owner (user {owner}) to update",
                path.display()
            )));
        }
        let place = Self(path);
        access(place.folder(), AccessFlags::W_OK | AccessFlags::X_OK)
            .map_err(|why| refusal(format_args!("write into {}", place.folder().display()), why))?;
        Ok(place)
    }

    fn folder(&self) -> &Path {
        self.0.parent().unwrap_or(Path::new("/"))
    }

    /// Takes a program out of the packed stream and puts it here.
    pub(crate) fn replace(&self, length: u64, digest: Digest, packed: &Packed) -> Result<Outcome, Stop> {
        if length > HELPER_MAX {
            return Err(Stop::person(format!("{length} bytes are more than the {HELPER_MAX} allowed")));
        }
        // Another session may do the same at this moment, by the same name.
        let _alone = self.alone()?;
        packed.announce(length);
        let mut name = OsString::from(".");
        name.push(self.0.file_name().unwrap_or_default());
        name.push(format!("-{digest}"));
        let draft = self.folder().join(name);
        let placed = self.place(&draft, &Announced { length, digest, mode: 0o755 }, packed);
        if placed.is_err() {
            let _ = fs::remove_file(&draft);
        }
        placed.map(|()| Outcome::Committed { replaced: true })
    }

    /// None where the file system locks no folders.
    fn alone(&self) -> Result<Option<Flock<File>>, Stop> {
        let Ok(folder) = File::open(self.folder()) else { return Ok(None) };
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Err((_, Errno::EWOULDBLOCK)) => {
                Err(Stop::later("another session replaces the helper at this moment"))
            }
            taken => Ok(taken.ok()),
        }
    }

    fn place(&self, draft: &Path, announced: &Announced, packed: &Packed) -> Result<(), Stop> {
        let written = |why: Errno| Stop::from(refusal(format_args!("write {}", draft.display()), why));
        let written_io = |why: io::Error| written(errno(&why));
        match fs::remove_file(draft) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(written_io(why)),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft);
        announced.receive(&file.map_err(written_io)?, packed, written)?;
        try_out(draft, announced.digest)?;
        fs::rename(draft, &self.0).map_err(written_io)?;
        File::open(self.folder()).and_then(|folder| folder.sync_all()).map_err(written_io)
    }
}

/// Runs what arrived: its own word on whether it can.
fn try_out(draft: &Path, digest: Digest) -> Result<(), Stop> {
    let said = Command::new(draft).arg("--version").stdin(Stdio::null()).output();
    let words = match said {
        Ok(said) if String::from_utf8_lossy(&said.stdout).contains(&digest.to_string()) => return Ok(()),
        Ok(said) => format!("it ended with {} {}", said.status, String::from_utf8_lossy(&said.stderr).trim()),
        Err(why) => why.to_string(),
    };
    let machine = std::env::consts::ARCH;
    Err(Stop::person(format!("this machine ({machine}) cannot run it: {words}")))
}
