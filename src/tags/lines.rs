//! Tags by lines: `PACKAGE VERSION [TARGET…]`, each with its answer, in order.
//!
//! An answer is `ok PACKAGE VERSION TARGET…`, or `error` and why. Without a target, the tag is for
//! every target that is enabled. A line is a tag on all of its targets, which no power cut takes away, before
//! it is answered; one that is not ended by a line end is never taken, for it may be half of another.
//!
//! Answers are written by a thread of their own, so that a writer may send all of its lines before it
//! reads an answer. One that neither writes nor reads for a minute is left.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use blat_target::package::PackageVersion;

use super::Tag;
use crate::config::Settings;

/// The longest line, in bytes.
pub(super) const LINE_MAX: usize = 4096;
/// So much without a line end is no line any more.
const ENDLESS: usize = 1 << 20;
/// How many batches of answers may wait for a writer that does not read.
const ANSWERS_AHEAD: usize = 4096;
const PIECE: usize = 4096;

/// Takes lines until `input` ends. Returns how many tags were dropped.
///
/// # Errors
/// When an answer cannot be written; what was taken stays taken.
pub(super) fn take(
    targets: &[Settings],
    mut input: impl Read,
    mut output: impl Write + Send + 'static,
) -> io::Result<u64> {
    let (answers, to_write) = mpsc::sync_channel::<Vec<u8>>(ANSWERS_AHEAD);
    let writer = thread::spawn(move || -> io::Result<()> {
        to_write.iter().try_for_each(|answer| output.write_all(&answer))?;
        output.flush()
    });
    let (rest, unsynced) = (Vec::new(), BTreeSet::new());
    let mut lines = Lines { targets, rest, skipped: 0, dropped: 0, unsynced };
    let mut piece = [0; PIECE];
    loop {
        match input.read(&mut piece) {
            Ok(0) => break lines.end(&answers),
            Ok(got) => {
                if !lines.take(&piece[..got], &answers) {
                    break;
                }
            }
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) if matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                let _ =
                    answers.send(b"error nothing was heard for too long: the connection is closed\n".into());
                break;
            }
            Err(_) => break,
        }
    }
    drop(answers);
    match writer.join() {
        Ok(written) => written.map(|()| lines.dropped),
        Err(_) => Err(io::Error::other("the thread that answers panicked")),
    }
}

struct Lines<'a> {
    targets: &'a [Settings],
    /// What came after the last line end.
    rest: Vec<u8>,
    /// How much was thrown away of a line that is too long.
    skipped: usize,
    dropped: u64,
    /// Where tags were dropped that were not answered for yet.
    unsynced: BTreeSet<PathBuf>,
}

impl Lines<'_> {
    /// Takes what came. Whether to go on.
    fn take(&mut self, piece: &[u8], answers: &SyncSender<Vec<u8>>) -> bool {
        let mut taken = Vec::new();
        let mut pieces = piece.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = pieces.next() {
            let ended = pieces.peek().is_some();
            self.add(part);
            if ended {
                taken.push(self.taken());
            }
        }
        let synced = self.sync();
        let taken = taken.into_iter().map(|taken| taken.and_then(|taken| synced.clone().map(|()| taken)));
        let mut told: Vec<u8> = taken.flat_map(answer).collect();
        let endless = self.skipped > ENDLESS;
        if endless {
            told.extend_from_slice(b"error the line does not end: the connection is closed\n");
        }
        (told.is_empty() || answers.send(told).is_ok()) && !endless
    }

    /// Syncs what was dropped since the last time.
    fn sync(&mut self) -> Result<(), String> {
        let unsynced = std::mem::take(&mut self.unsynced);
        unsynced.iter().try_for_each(|directory| {
            super::sync(directory)
                .map_err(|why| format!("cannot sync {} to disk: {why}", directory.display()))
        })
    }

    fn add(&mut self, part: &[u8]) {
        let room = (LINE_MAX + 1).saturating_sub(self.rest.len()).min(part.len());
        self.rest.extend_from_slice(&part[..room]);
        self.skipped += part.len() - room;
    }

    fn end(&mut self, answers: &SyncSender<Vec<u8>>) {
        if !self.rest.is_empty() {
            let _ = answers.send(b"error the last line has no end: it was not taken\n".into());
        }
    }

    fn taken(&mut self) -> Result<String, String> {
        let line = std::mem::take(&mut self.rest);
        let skipped = std::mem::take(&mut self.skipped);
        if line.len() > LINE_MAX || skipped > 0 {
            return Err(format!("the line is longer than {LINE_MAX} bytes"));
        }
        std::str::from_utf8(&line)
            .map_err(|_| "the line is no UTF-8".to_owned())
            .and_then(|line| self.line(line))
    }

    fn line(&mut self, line: &str) -> Result<String, String> {
        let mut words = line.split_whitespace();
        let (Some(package), Some(version)) = (words.next(), words.next()) else {
            return Err("a line is PACKAGE VERSION, perhaps with TARGETs behind".into());
        };
        let id =
            PackageVersion::new(package, version).map_err(|why| format!("{package} {version}: {why}"))?;
        let targets = self.named(words)?;
        if targets.is_empty() {
            return Err("no target is enabled".into());
        }
        let tag = Tag(id);
        let mut taken = format!("{package} {version}");
        for target in targets {
            let directory = &target.tags.directory;
            if let Err(why) = tag.drop_into(directory) {
                return Err(format!("{taken}: cannot drop a tag into {}: {why}", directory.display()));
            }
            self.dropped += 1;
            self.unsynced.insert(directory.clone());
            taken = format!("{taken} {}", target.name);
        }
        Ok(taken)
    }

    /// The targets of these names, each once; all enabled ones, if there is none.
    fn named<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<Vec<Settings>, String> {
        let mut found: Vec<Settings> = Vec::new();
        let mut any = false;
        for name in names {
            any = true;
            let known = self.targets.iter().find(|target| target.name.as_str() == name);
            let known = known.ok_or_else(|| format!("there is no target {name}"))?;
            if !found.iter().any(|target| target.name == known.name) {
                found.push(known.clone());
            }
        }
        if any {
            return Ok(found);
        }
        Ok(self.targets.iter().filter(|target| target.enabled).cloned().collect())
    }
}

/// As one line, whatever stands in the names.
fn answer(taken: Result<String, String>) -> Vec<u8> {
    let answer = match taken {
        Ok(taken) => format!("ok {taken}"),
        Err(why) => format!("error {why}"),
    };
    let mut answer: String = answer.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    answer.push('\n');
    answer.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overview;
    use proptest::prelude::*;
    use std::fs;
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn targets(root: &Path) -> Vec<Settings> {
        fs::create_dir_all(root.join("etc/blat/targets")).unwrap();
        for (name, enabled) in [("a", true), ("b", true), ("off", false)] {
            let tags = root.join(name);
            fs::create_dir(&tags).unwrap();
            let text = format!("source='/s'\nenabled={enabled}\nssh.host='h'\ntags.directory={tags:?}\n");
            fs::write(root.join(format!("etc/blat/targets/{name}.toml")), text).unwrap();
        }
        Overview::read(root).targets.into_values().flatten().collect()
    }

    fn told(targets: &[Settings], input: &[u8]) -> Vec<String> {
        let shared = Shared::default();
        take(targets, input, shared.clone()).unwrap();
        let bytes = shared.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_is_a_tag_for_all_that_are_enabled_or_for_those_that_are_named() {
        let root = tempfile::tempdir().unwrap();
        let targets = targets(root.path());
        let answers = told(&targets, b"core 1.0\ncore  2.0 b b\ncore 3.0 off\n");
        assert_eq!(answers, ["ok core 1.0 a b", "ok core 2.0 b", "ok core 3.0 off"]);
        for (file, there) in [("a/core::1.0", true), ("b/core::1.0", true), ("off/core::1.0", false)] {
            assert_eq!(root.path().join(file).exists(), there, "{file}");
        }
        assert!(root.path().join("b/core::2.0").exists() && root.path().join("off/core::3.0").exists());
    }

    #[test]
    fn every_bad_line_has_its_answer_and_stops_no_other() {
        let root = tempfile::tempdir().unwrap();
        let targets = targets(root.path());
        let long = "x".repeat(LINE_MAX + 1);
        let input = format!("\ncore\n../x 1\ncore .. \ncore 1 nowhere\n{long}\ncore 1.0 a\r\ncore 1.");
        let answers = told(&targets, &[input.as_bytes(), b""].concat());
        assert_eq!(answers.len(), 8, "{answers:?}");
        assert!(answers[..6].iter().all(|answer| answer.starts_with("error ")), "{answers:?}");
        assert_eq!(answers[6], "ok core 1.0 a");
        assert!(answers[7].contains("has no end"));
        assert!(told(&targets, b"a\xff 1\n")[0].contains("UTF-8"));
        assert_eq!(fs::read_dir(root.path().join("b")).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_synced_is_not_answered_as_taken() {
        let root = tempfile::tempdir().unwrap();
        let targets = targets(root.path());
        let unsynced = BTreeSet::from([root.path().join("gone")]);
        let mut lines = Lines { targets: &targets, rest: Vec::new(), skipped: 0, dropped: 0, unsynced };
        let (answers, told) = mpsc::sync_channel(1);
        assert!(lines.take(b"core 1.0 a\ncore\n", &answers));
        let told = String::from_utf8(told.recv().unwrap()).unwrap();
        assert!(told.starts_with("error cannot sync ") && told.contains("\nerror a line is "), "{told}");
    }

    #[test]
    fn a_line_without_end_is_not_read_for_ever() {
        let root = tempfile::tempdir().unwrap();
        let targets = targets(root.path());
        let answers = told_of(&targets, io::repeat(b'x'));
        assert_eq!(answers, "error the line does not end: the connection is closed\n");
    }

    fn told_of(targets: &[Settings], input: impl Read) -> String {
        let shared = Shared::default();
        take(targets, input, shared.clone()).unwrap();
        let bytes = shared.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    proptest! {
        #[test]
        fn whatever_comes_each_line_has_one_answer(input in proptest::collection::vec(any::<u8>(), 0..400)) {
            let answers = told(&[], &input);
            let ends = input.iter().filter(|byte| **byte == b'\n').count();
            let open = usize::from(input.last().is_some_and(|byte| *byte != b'\n'));
            prop_assert_eq!(answers.len(), ends + open);
            prop_assert!(answers.iter().all(|answer| answer.starts_with("error ")));
        }
    }
}
