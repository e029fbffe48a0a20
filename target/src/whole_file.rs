//! A file that arrives by itself, of a length and a digest that were announced.

use std::fs::File;
use std::io::{self, Read, Write};

use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod};

use crate::inflate::Packed;
use crate::message::Digest;
use crate::refusal::{Stop, errno};

/// How a file was announced.
pub(crate) struct Announced {
    pub(crate) length: u64,
    pub(crate) digest: Digest,
    /// The permission bits that it gets.
    pub(crate) mode: u32,
}

impl Announced {
    /// Takes the file out of the packed stream into `draft`, checks it, and syncs it to disk.
    /// `written` makes the refusal of what cannot be written.
    pub(crate) fn receive(
        &self,
        mut draft: &File,
        packed: &Packed,
        written: impl Fn(Errno) -> Stop,
    ) -> Result<(), Stop> {
        packed.allow(self.length);
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; 1 << 16];
        let mut left = self.length;
        while left > 0 {
            let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let got = (&*packed).read(&mut piece[..most]).map_err(|_| packed.stop("it cannot be read"))?;
            if got == 0 {
                return Err(packed.stop("it is shorter than was announced"));
            }
            hasher.update(&piece[..got]);
            draft.write_all(&piece[..got]).map_err(|why| written(errno(&why)))?;
            left -= got as u64;
        }
        packed.finish()?;
        if hasher.finalize().as_bytes() != &self.digest.0 {
            return Err(Stop::person("it is not what was announced: its digest differs"));
        }
        fchmod(draft, Mode::from_bits_truncate(self.mode)).map_err(&written)?;
        draft.sync_all().map_err(|why: io::Error| written(errno(&why)))
    }
}
