//! Tags by lines: `PACKAGE VERSION [TARGET…]`, each with its answer, in order.
//!
//! An answer is `ok PACKAGE VERSION TARGET…`, or `error` and why. Without a target, the tag is for
//! every target that is enabled. A line is a tag on all of its targets, which no power cut takes away, before
//! it is answered `ok`; one that is not ended by a line end is never taken, for it may be half of another.
//!
//! A tag directory that fails, or whose file server is gone, keeps a tag from no other: each has a thread of its
//! own, and the answer says who has the tag all the same.
//!
//! Answers are written by a thread of their own, so that a writer may send all of its lines before it
//! reads an answer. One that neither writes nor reads for a minute is left.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::Duration;

use blat_target::package::PackageVersion;

use super::Tag;
use crate::config::Settings;
use crate::look::Look;

/// The longest line, in bytes.
pub(super) const LINE_MAX: usize = 4096;
/// So much without a line end is no line any more.
const ENDLESS: usize = 1 << 20;
/// How many batches of answers may wait for a writer that does not read.
const ANSWERS_AHEAD: usize = 4096;
const PIECE: usize = 4096;
/// For how long a tag directory is waited for. A disk that is busy may take some seconds to sync one.
const PATIENCE: Duration = Duration::from_secs(10);

/// The tags that could not be dropped into a directory, and why; the others no power cut takes away.
type Dropped = io::Result<HashMap<Tag, io::Error>>;

/// Takes lines until `input` ends.
///
/// # Errors
/// When an answer cannot be written; what was taken stays taken.
pub(super) fn take(
    targets: &[Settings],
    mut input: impl Read,
    mut output: impl Write + Send + 'static,
) -> io::Result<()> {
    let (answers, to_write) = mpsc::sync_channel::<Vec<u8>>(ANSWERS_AHEAD);
    let writer = thread::spawn(move || -> io::Result<()> {
        to_write.iter().try_for_each(|answer| output.write_all(&answer))?;
        output.flush()
    });
    let mut lines = Lines::of(targets);
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
        Ok(written) => written,
        Err(_) => Err(io::Error::other("the thread that answers panicked")),
    }
}

struct Lines<'a> {
    targets: &'a [Settings],
    /// What came after the last line end.
    rest: Vec<u8>,
    /// How much was thrown away of a line that is too long.
    skipped: usize,
    drops: fn(&Path, &[Tag]) -> Dropped,
    patience: Duration,
}

/// What a line asks for.
struct Wanted<'a> {
    tag: Tag,
    targets: Vec<&'a Settings>,
}

impl<'a> Lines<'a> {
    fn of(targets: &'a [Settings]) -> Self {
        Self { targets, rest: Vec::new(), skipped: 0, drops: drop_all, patience: PATIENCE }
    }

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
        let dropped = self.dropped(taken.iter().flatten());
        let taken = taken.into_iter().map(|taken| taken.and_then(|wanted| wanted.became(&dropped)));
        let mut told: Vec<u8> = taken.flat_map(answer).collect();
        let endless = self.skipped > ENDLESS;
        if endless {
            told.extend_from_slice(b"error the line does not end: the connection is closed\n");
        }
        (told.is_empty() || answers.send(told).is_ok()) && !endless
    }

    /// Drops all these tags, into all directories at a time.
    fn dropped<'w>(&self, wanted: impl Iterator<Item = &'w Wanted<'a>>) -> BTreeMap<&'a Path, Dropped>
    where
        'a: 'w,
    {
        let mut tags: BTreeMap<&Path, Vec<Tag>> = BTreeMap::new();
        for wanted in wanted {
            for target in &wanted.targets {
                tags.entry(&target.tags.directory).or_default().push(wanted.tag.clone());
            }
        }
        let begin = |(directory, tags): (&'a Path, Vec<Tag>)| {
            let (drops, into) = (self.drops, directory.to_owned());
            (directory, Look::begin(directory, move || drops(&into, &tags)))
        };
        let begun: Vec<_> = tags.into_iter().map(begin).collect();
        begun.into_iter().map(|(directory, look)| (directory, look.end_within(self.patience))).collect()
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

    fn taken(&mut self) -> Result<Wanted<'a>, String> {
        let line = std::mem::take(&mut self.rest);
        let skipped = std::mem::take(&mut self.skipped);
        if line.len() > LINE_MAX || skipped > 0 {
            return Err(format!("the line is longer than {LINE_MAX} bytes"));
        }
        std::str::from_utf8(&line)
            .map_err(|_| "the line is no UTF-8".to_owned())
            .and_then(|line| self.line(line))
    }

    fn line(&self, line: &str) -> Result<Wanted<'a>, String> {
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
        Ok(Wanted { tag: Tag(id), targets })
    }

    /// The targets of these names, each once; all enabled ones, if there is none.
    fn named<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<Vec<&'a Settings>, String> {
        let mut found: Vec<&Settings> = Vec::new();
        let mut any = false;
        for name in names {
            any = true;
            let known = self.targets.iter().find(|target| target.name.as_str() == name);
            let known = known.ok_or_else(|| format!("there is no target {name}"))?;
            if !found.iter().any(|target| target.name == known.name) {
                found.push(known);
            }
        }
        if any {
            return Ok(found);
        }
        Ok(self.targets.iter().filter(|target| target.enabled).collect())
    }
}

impl Wanted<'_> {
    /// What became of it: where it was dropped, or why not, and where all the same.
    fn became(&self, dropped: &BTreeMap<&Path, Dropped>) -> Result<String, String> {
        let (mut names, mut failed) = (String::new(), String::new());
        for target in &self.targets {
            let directory = target.tags.directory.as_path();
            let why = match &dropped[directory] {
                Ok(failed) => failed.get(&self.tag),
                Err(why) => Some(why),
            };
            match why {
                None => names = format!("{names} {}", target.name),
                Some(why) => {
                    let place = format!("cannot drop a tag for {} into {}", target.name, directory.display());
                    failed = format!("{failed}{place}: {why}; ");
                }
            }
        }
        let Tag(PackageVersion { package, version }) = &self.tag;
        match (failed.trim_end_matches("; "), names.as_str()) {
            ("", names) => Ok(format!("{package} {version}{names}")),
            (failed, "") => Err(format!("{package} {version}: {failed}")),
            (failed, names) => Err(format!("{package} {version}: {failed}; dropped for{names}")),
        }
    }
}

fn drop_all(directory: &Path, tags: &[Tag]) -> Dropped {
    let drop = |tag: &Tag| Some((tag.clone(), tag.drop_into(directory).err()?));
    let failed: HashMap<_, _> = tags.iter().filter_map(drop).collect();
    if tags.iter().any(|tag| !failed.contains_key(tag)) {
        let unsynced =
            |why: io::Error| io::Error::new(why.kind(), format!("it cannot be synced to disk: {why}"));
        super::sync(directory).map_err(unsynced)?;
    }
    Ok(failed)
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
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

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

    /// What is told of these lines, each a piece of its own, when tags are dropped so.
    fn told_where(targets: &[Settings], drops: fn(&Path, &[Tag]) -> Dropped, lines: &[&str]) -> Vec<String> {
        let mut taker = Lines { drops, patience: Duration::from_secs(2), ..Lines::of(targets) };
        let (answers, told) = mpsc::sync_channel(lines.len());
        assert!(lines.iter().all(|line| taker.take(line.as_bytes(), &answers)));
        drop(answers);
        told.into_iter().map(|told| String::from_utf8(told).unwrap()).collect()
    }

    #[test]
    fn a_tag_directory_that_fails_keeps_a_tag_from_no_other() {
        let root = tempfile::tempdir().unwrap();
        let targets = targets(root.path());
        fs::remove_dir(root.path().join("a")).unwrap();
        let answers = told(&targets, b"core 1.0\ncore 2.0 b\ncore 3.0 a\n");
        let start = "error core 1.0: cannot drop a tag for a into ";
        assert!(answers[0].starts_with(start) && answers[0].ends_with("; dropped for b"), "{answers:?}");
        assert!(root.path().join("b/core::1.0").exists());
        assert_eq!(answers[1], "ok core 2.0 b");
        assert!(answers[2].starts_with("error ") && !answers[2].contains("dropped for"), "{answers:?}");
    }

    #[test]
    fn what_cannot_be_synced_is_not_answered_as_taken() {
        let root = tempfile::tempdir().unwrap();
        let drops = |directory: &Path, tags: &[Tag]| match directory.ends_with("a") {
            true => Err(io::Error::other("it cannot be synced")),
            false => drop_all(directory, tags),
        };
        let told = told_where(&targets(root.path()), drops, &["core 1.0 a\ncore\ncore 2.0 b\n"]);
        let answers: Vec<_> = told[0].lines().collect();
        assert!(answers[0].starts_with("error ") && answers[0].ends_with("synced"), "{answers:?}");
        assert!(answers[1].starts_with("error a line is "), "{answers:?}");
        assert_eq!(answers[2], "ok core 2.0 b");
    }

    #[test]
    fn a_tag_directory_that_does_not_answer_is_waited_for_once() {
        let root = tempfile::tempdir().unwrap();
        let drops = |directory: &Path, tags: &[Tag]| match directory.ends_with("a") {
            true => loop {
                thread::park();
            },
            // A disk that is busy with other things may take long to sync it.
            false => {
                tags.iter().try_for_each(|tag| tag.drop_into(directory).map(drop)).map(|()| HashMap::new())
            }
        };
        let begin = Instant::now();
        let lines: Vec<_> = (0..10).map(|line| format!("core {line}\n")).collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let told = told_where(&targets(root.path()), drops, &lines);
        for (line, told) in told.iter().enumerate() {
            assert!(told.ends_with(": it does not answer; dropped for b\n"), "{told}");
            assert!(root.path().join(format!("b/core::{line}")).exists());
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
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
