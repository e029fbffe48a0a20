//! Puts the new list together: lines that are new, and lines of the old list as they were.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use nix::Result;
use nix::errno::Errno;

use super::LIST;
use super::fragments::{At, Fragments, Sign};
use crate::archive::{Archive, OWN_FOLDER};
use crate::refusal::{errno, refusal};
use crate::serve::{EXIT_DONE, EXIT_PERSON};

/// So much is read, and written, at once.
const PIECE: usize = 1 << 20;
/// What `find` exits with when nothing was found, as `grep` does.
const EXIT_NOTHING: u8 = 1;

pub(super) struct Compose {
    old: Option<File>,
    /// A piece of the old list, and where in it that begins.
    window: Vec<u8>,
    from: u64,
    draft: File,
    ready: Vec<u8>,
    written: u64,
    lines: u64,
    fragments: Fragments,
    failed: Option<Errno>,
}

impl Compose {
    pub(super) fn new(old: Option<File>, draft: File) -> Self {
        Self {
            old,
            window: Vec::new(),
            from: 0,
            draft,
            ready: Vec::with_capacity(2 * PIECE),
            written: 0,
            lines: 0,
            fragments: Fragments::default(),
            failed: None,
        }
    }

    /// Adds one line.
    pub(super) fn line(&mut self, line: &[u8]) {
        self.ready.extend_from_slice(line);
        self.ready.push(b'\n');
        self.lines += 1;
        self.flow();
    }

    /// Adds the lines of a package-version, known by `sign` from now on if there is one.
    pub(super) fn fragment(&mut self, key: &[u8], sign: Option<Sign>, lines: &[u8]) {
        let count = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        let at = At { start: self.place(), length: lines.len() as u64, lines: count };
        if let Some(sign) = sign {
            self.fragments.add(key, sign, at);
        }
        self.ready.extend_from_slice(lines);
        self.lines += count;
        self.flow();
    }

    /// Adds lines of the old list; false if it does not have those of `key` there.
    pub(super) fn copy(&mut self, key: &[u8], sign: Sign, at: At) -> bool {
        let place = self.place();
        let Some(range) = self.show(at) else { return false };
        let lines = &self.window[range];
        let begins = lines.strip_prefix(key).is_some_and(|rest| rest.first() == Some(&b'\n'));
        if !begins || lines.last() != Some(&b'\n') {
            return false;
        }
        self.ready.extend_from_slice(lines);
        self.fragments.add(key, sign, At { start: place, ..at });
        self.lines += at.lines;
        self.flow();
        true
    }

    /// The list, what is known of it, and how many lines it has.
    pub(super) fn finish(mut self) -> Result<(File, Fragments, u64)> {
        self.write();
        match self.failed {
            Some(why) => Err(why),
            None => Ok((self.draft, self.fragments, self.lines)),
        }
    }

    /// Where the next line will stand.
    fn place(&self) -> u64 {
        self.written + self.ready.len() as u64
    }

    /// Has a range of the old list in the window, and says where.
    fn show(&mut self, at: At) -> Option<std::ops::Range<usize>> {
        let length = usize::try_from(at.length).ok()?;
        let inside = |this: &Self| {
            let start = usize::try_from(at.start.checked_sub(this.from)?).ok()?;
            let end = start.checked_add(length)?;
            (end <= this.window.len()).then_some(start..end)
        };
        if let Some(range) = inside(self) {
            return Some(range);
        }
        let old = self.old.as_ref()?;
        if at.start.checked_add(at.length)? > old.metadata().ok()?.len() {
            return None;
        }
        self.window.resize(length.max(PIECE), 0);
        let mut got = 0;
        while got < self.window.len() {
            match old.read_at(&mut self.window[got..], at.start + got as u64) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            }
        }
        self.window.truncate(got);
        self.from = at.start;
        inside(self)
    }

    fn flow(&mut self) {
        if self.ready.len() >= PIECE {
            self.write();
        }
    }

    fn write(&mut self) {
        if self.failed.is_none()
            && let Err(why) = self.draft.write_all(&self.ready)
        {
            self.failed = Some(errno(&why));
        }
        self.written += self.ready.len() as u64;
        self.ready.clear();
    }
}

/// `blat-target find`: prints the lines of the list that have `pattern` in them, in which `*` stands for
/// anything.
pub fn find(path: &[u8], pattern: &[u8]) -> ExitCode {
    let opened = Archive::open_to_read(path).and_then(|archive| {
        let list = [OWN_FOLDER.as_bytes(), b"/", LIST].concat();
        archive.root.read(&list).map_err(|why| refusal("open the index; `blat-target index` makes it", why))
    });
    let list = match opened {
        Ok(list) => list,
        Err(refusal) => {
            eprintln!("blat-target: {}", refusal.reason);
            return ExitCode::from(EXIT_PERSON);
        }
    };
    match print_matches(BufReader::with_capacity(PIECE, list), pattern) {
        Ok(true) => ExitCode::from(EXIT_DONE),
        // Who reads has seen enough.
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(EXIT_DONE),
        Ok(false) => ExitCode::from(EXIT_NOTHING),
        Err(why) => {
            eprintln!("blat-target: could not search the index: {why}");
            ExitCode::from(EXIT_PERSON)
        }
    }
}

fn print_matches(mut list: impl BufRead, pattern: &[u8]) -> io::Result<bool> {
    let mut output = io::BufWriter::new(io::stdout().lock());
    let (mut line, mut any) = (Vec::new(), false);
    while list.read_until(b'\n', &mut line)? > 0 {
        if matches(line.strip_suffix(b"\n").unwrap_or(&line), pattern) {
            output.write_all(&line)?;
            any = true;
        }
        line.clear();
    }
    output.flush().map(|()| any)
}

/// Whether the parts of the pattern stand in the line, one behind the other.
pub(super) fn matches(mut line: &[u8], pattern: &[u8]) -> bool {
    for part in pattern.split(|byte| *byte == b'*').filter(|part| !part.is_empty()) {
        match line.windows(part.len()).position(|window| window == part) {
            Some(place) => line = &line[place + part.len()..],
            None => return false,
        }
    }
    true
}
