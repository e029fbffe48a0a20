//! The commit: what is staged and verified is synced to disk, renamed into place, and
//! only then acknowledged. Packages and links that come close together share one sync, and
//! a thread of its own does so while more is received: a session is one queue, committed in
//! its order, so a link finds there what was sent before it.
//!
//! Why a crash is harmless at each point:
//! - before the rename, all of it stands under a hidden name and is on record
//!   ([`crate::sessions`]): no reader sees it, a later session clears it;
//! - the rename is one step of the kernel's: what stood there before is exchanged for
//!   the new (and then stands under the hidden name, to be removed), or the new takes
//!   an empty place without ever replacing anything. A reader sees the old version, or
//!   the new one, whole, and its bytes were on disk before;
//! - between rename and acknowledgement the host does not know; it asks again, and
//!   finds the version standing.
//!
//! Two sessions may commit in the same place: each looks again when the place is not
//! as it was. What came there since a build was begun is not replaced by that build, for another one
//! is wanted by then: it may have waited for its sync while the host that sent it was gone.
//!
//! On a file system without such renames (`EINVAL`) the old is first renamed aside:
//! for a moment, and after a crash in that moment, there is none; never a part of one.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::RenameFlags;
use nix::sys::stat::SFlag;
use nix::sys::stat::fstat;
use nix::unistd::{fsync, syncfs};

use crate::archive::{Archive, standing_in};
use crate::channel::{Input, Output, Pulse};
use crate::folder::{Folder, kind};
use crate::history::came_after;
use crate::message::{Outcome, PackageHead, Refusal, Standing};
use crate::package::{Name, PackageVersion};
use crate::partial;
use crate::refusal::{End, refusal};
use crate::stage::Hidden;
use crate::stamp::Stamp;
use crate::turn::Turns;

/// A group is committed when it has more members than this,
const MEMBERS_MAX: usize = 100;
/// or more bytes than this,
const BYTES_MAX: u64 = 64 << 20;
/// or is older than this. While twice as much is being committed, nothing more is received.
///
/// Each member holds a folder open, so this is also what keeps open files few.
const AGE_MAX: Duration = Duration::from_millis(500);
/// After a commit the next one waits for half of what that took, but no longer than this: in a
/// stream, more comes meanwhile that can share the sync, and making files is not held up always.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Up to so many files and folders, and so many bytes, are synced one by one.
///
/// Medians on ext4, in milliseconds, one by one against the whole file system: alone on the
/// disk 3 to 2 for two things, 6 to 3 for five, 14 to 4 for sixteen; while another program
/// writes 8 to 30, 26 to 21, 98 to 42. So one by one pays only for the smallest packages,
/// which then do not wait for what others wrote.
const SINGLE_MAX: usize = 4;
const SINGLE_BYTES_MAX: u64 = 1 << 20;
/// How often to look again when others keep changing a place.
const ATTEMPTS: usize = 16;

/// Files and folders that are not yet synced to disk.
#[derive(Default)]
pub(crate) struct Unsynced {
    /// Held open as long as they are few.
    few: Vec<OwnedFd>,
    many: bool,
    bytes: u64,
}

impl Unsynced {
    pub(crate) fn add(&mut self, open: OwnedFd, bytes: u64) {
        self.few.push(open);
        self.bytes = self.bytes.saturating_add(bytes);
        self.bound();
    }

    fn join(&mut self, other: Self) {
        self.few.extend(other.few);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.many |= other.many;
        self.bound();
    }

    fn bound(&mut self) {
        self.many |= self.few.len() > SINGLE_MAX || self.bytes > SINGLE_BYTES_MAX;
        if self.many {
            self.few.clear();
        }
    }
}

/// A package-version or link that is staged and verified.
pub(crate) struct Pending {
    number: u64,
    id: PackageVersion,
    what: What,
    hidden: Hidden,
}

enum What {
    Version(Stamp),
    Link { text: Vec<u8>, addressed: Name },
}

impl Pending {
    pub(crate) fn version(head: &PackageHead, hidden: Hidden) -> Self {
        Self { number: head.number, id: head.id.clone(), what: What::Version(head.stamp), hidden }
    }

    pub(crate) fn link(
        number: u64,
        id: PackageVersion,
        text: Vec<u8>,
        addressed: Name,
        hidden: Hidden,
    ) -> Self {
        Self { number, id, what: What::Link { text, addressed }, hidden }
    }

    /// Renames it into its place.
    fn place(&self) -> Outcome {
        match partial::with_room(&self.hidden.archive, || self.try_place()) {
            Ok(outcome) => outcome,
            Err(why) => Outcome::Refused(refusal(format_args!("rename {} into place", self.id), why)),
        }
    }

    fn try_place(&self) -> nix::Result<Outcome> {
        if let Some(refused) = self.dangles()? {
            return Ok(refused);
        }
        for _ in 0..ATTEMPTS {
            let standing = standing_in(&self.hidden.folder, &self.id.version)?;
            if self.is(&standing) {
                return Ok(Outcome::Unchanged);
            }
            let replaced = standing != Standing::Absent;
            if replaced && self.is_overtaken()? {
                let reason = format!("{} came in another build while this one was on its way", self.id);
                return Ok(Outcome::Refused(Refusal::later(reason)));
            }
            match self.rename(replaced) {
                Ok(()) => return Ok(Outcome::Committed { replaced }),
                Err(Errno::EEXIST | Errno::ENOENT) => continue,
                Err(why) => return Err(why),
            }
        }
        Ok(Outcome::Refused(Refusal::later(format!("others keep changing {}", self.id))))
    }

    /// Whether what stands in its place came there after it was begun, by the time of the rename.
    fn is_overtaken(&self) -> nix::Result<bool> {
        let folder = &self.hidden.folder;
        let Some(found) = folder.stat(self.id.version.as_str().as_bytes())? else { return Ok(false) };
        // By the clock of the file system, which may be another machine's.
        let own = folder.stat(&self.hidden.name)?.map_or(0, |own| own.st_ctime);
        Ok(self.hidden.began.is_some_and(|began| came_after(&found, began, own)))
    }

    /// The refusal of a link to what is not there.
    fn dangles(&self) -> nix::Result<Option<Outcome>> {
        let What::Link { addressed, .. } = &self.what else { return Ok(None) };
        let found = self.hidden.folder.stat(addressed.as_str().as_bytes())?;
        // A link there was made by the same rule, so it leads somewhere.
        if found.is_some_and(|found| matches!(kind(&found), SFlag::S_IFDIR | SFlag::S_IFLNK)) {
            return Ok(None);
        }
        let (id, package) = (&self.id, &self.id.package);
        let reason =
            format!("the link {id} was not made: {package}/{addressed}, which it addresses, is not there");
        Ok(Some(Outcome::Refused(Refusal::later(reason))))
    }

    fn is(&self, standing: &Standing) -> bool {
        match (&self.what, standing) {
            (What::Version(stamp), Standing::Version(standing)) => stamp == standing,
            (What::Link { text, .. }, Standing::Link(standing)) => text == standing,
            _ => false,
        }
    }

    fn rename(&self, replace: bool) -> nix::Result<()> {
        let (folder, from, to) =
            (&self.hidden.folder, &self.hidden.name, self.id.version.as_str().as_bytes());
        let flags = if replace { RenameFlags::RENAME_EXCHANGE } else { RenameFlags::RENAME_NOREPLACE };
        match folder.rename(from, to, flags) {
            Err(Errno::EINVAL) => self.rename_plainly(replace),
            done => done,
        }
    }

    /// The same on a file system that can neither exchange nor refuse to replace.
    fn rename_plainly(&self, replace: bool) -> nix::Result<()> {
        let (folder, from, to) =
            (&self.hidden.folder, &self.hidden.name, self.id.version.as_str().as_bytes());
        let none = RenameFlags::empty();
        if !replace {
            return folder.rename(from, to, none);
        }
        let aside = self.hidden.session.hidden_name(&self.id.package)?;
        folder.rename(to, &aside, none)?;
        if let Err(why) = folder.rename(from, to, none) {
            folder.rename(&aside, to, none)?;
            return Err(why);
        }
        folder.rename(&aside, from, none)
    }
}

/// What goes to be committed together.
#[derive(Default)]
struct Batch {
    pending: Vec<Pending>,
    unsynced: Unsynced,
}

impl Batch {
    fn join(&mut self, other: Self) {
        self.pending.extend(other.pending);
        self.unsynced.join(other.unsynced);
    }

    fn size(&self) -> Size {
        Size { members: self.pending.len(), bytes: self.unsynced.bytes }
    }
}

/// How much is in a batch, or in several.
#[derive(Clone, Copy, Default)]
struct Size {
    members: usize,
    bytes: u64,
}

impl Size {
    /// Whether it is so many times what one batch may be.
    fn fills(self, batches: usize) -> bool {
        self.members >= batches * MEMBERS_MAX || self.bytes > batches as u64 * BYTES_MAX
    }
}

/// What is staged, and the thread that commits it while more is received.
pub(crate) struct Group {
    batch: Batch,
    since: Instant,
    pulse: Arc<Pulse>,
    /// None once the session has ended.
    committer: Option<JoinHandle<()>>,
    hand: Option<Sender<Batch>>,
    done: Receiver<Result<Size, End>>,
    /// What the thread was given and did not answer for yet.
    handed: Size,
}

impl Group {
    pub(crate) fn new(
        archive: Arc<Archive>,
        turns: Arc<Turns>,
        output: Arc<Output>,
        pulse: Arc<Pulse>,
    ) -> Self {
        let ((hand, batches), (tell, done)) = (channel(), channel());
        let committer = Committer { archive, turns, output, pulse: pulse.clone() };
        let committer = std::thread::spawn(move || committer.work(&batches, &tell));
        let (batch, handed) = (Batch::default(), Size::default());
        Self {
            batch,
            since: Instant::now(),
            pulse,
            committer: Some(committer),
            hand: Some(hand),
            done,
            handed,
        }
    }

    pub(crate) fn add(&mut self, pending: Pending, unsynced: Unsynced) {
        if self.batch.pending.is_empty() {
            self.since = Instant::now();
        }
        self.pulse.waits(1);
        self.batch.join(Batch { pending: vec![pending], unsynced });
    }

    /// Has the batch committed if it is full or old, or if the host has nothing more to say right
    /// now. Waits only when far more was staged than is committed.
    pub(crate) fn settle(&mut self, input: &Input) -> Result<(), End> {
        while let Ok(done) = self.done.try_recv() {
            self.answered(done)?;
        }
        let due = || self.batch.size().fills(1) || self.since.elapsed() > AGE_MAX || !input.is_ready();
        if !self.batch.pending.is_empty() && due() {
            self.hand_over();
        }
        while self.handed.fills(2) {
            self.wait()?;
        }
        Ok(())
    }

    /// Commits all that is pending, and returns when the host was told.
    pub(crate) fn commit(&mut self) -> Result<(), End> {
        self.hand_over();
        while self.handed.members > 0 {
            self.wait()?;
        }
        Ok(())
    }

    /// Commits all that is pending, whether or not the host is there to be told, and ends the thread.
    pub(crate) fn end(&mut self) {
        self.hand_over();
        self.hand = None;
        if let Some(committer) = self.committer.take() {
            let _ = committer.join();
        }
    }

    fn hand_over(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let size = batch.size();
        let taken = self.hand.as_ref().is_some_and(|hand| size.members > 0 && hand.send(batch).is_ok());
        if taken {
            self.handed.members += size.members;
            self.handed.bytes += size.bytes;
        }
    }

    fn wait(&mut self) -> Result<(), End> {
        let gone = || End::Cut("what was staged cannot be committed any more".into());
        // Nothing more comes meanwhile that could share a sync: no pause is worth anything.
        self.committer.iter().for_each(|committer| committer.thread().unpark());
        let done = self.done.recv().map_err(|_| gone())?;
        self.answered(done)
    }

    fn answered(&mut self, done: Result<Size, End>) -> Result<(), End> {
        let done = done?;
        self.handed.members -= done.members;
        self.handed.bytes -= done.bytes;
        Ok(())
    }
}

/// Commits one batch after the other; what came meanwhile is one batch.
struct Committer {
    archive: Arc<Archive>,
    turns: Arc<Turns>,
    output: Arc<Output>,
    pulse: Arc<Pulse>,
}

impl Committer {
    /// Works until nothing more comes.
    fn work(&self, batches: &Receiver<Batch>, tell: &Sender<Result<Size, End>>) {
        while let Ok(mut batch) = batches.recv() {
            batches.try_iter().for_each(|more| batch.join(more));
            let (begin, size) = (Instant::now(), batch.size());
            let done = self.commit(batch);
            // What is staged is committed, whoever hears of it.
            let _ = tell.send(done.map(|()| size));
            std::thread::park_timeout((begin.elapsed() / 2).min(PAUSE_MAX));
        }
    }

    fn commit(&self, batch: Batch) -> Result<(), End> {
        let Batch { pending, unsynced } = batch;
        let outcomes = match sync(&pending, unsynced) {
            Err(why) => {
                partial::make_room(&self.archive, why);
                vec![Outcome::Refused(refusal("sync what was staged to disk", why)); pending.len()]
            }
            Ok(()) => self.place(&pending),
        };
        self.pulse.moved();
        let done = pending.iter().zip(&outcomes);
        let committed: Vec<_> = done
            .filter(|(_, outcome)| matches!(outcome, Outcome::Committed { .. }))
            .map(|(member, _)| member.id.clone())
            .collect();
        let answer = |(member, outcome): (&Pending, _)| self.output.answer(member.number, outcome);
        let told = pending.iter().zip(outcomes).try_for_each(answer);
        self.pulse.committed(pending.len());
        // Only now goes what was replaced, and what was overtaken.
        drop(pending);
        partial::clear_overtaken(&self.archive, committed.iter());
        self.pulse.moved();
        told
    }

    /// Renames all into place, in a turn. They are needed, and so is what links address: marks go first,
    /// so that nothing that was acknowledged can be deleted by one.
    fn rename(&self, pending: &[Pending]) -> nix::Result<Vec<Outcome>> {
        let mut turn = self.turns.take()?;
        for member in pending {
            turn.marks().remove(&member.id);
            if let What::Link { addressed, .. } = &member.what {
                turn.marks().remove(&member.id.with_version(addressed.clone()));
            }
        }
        turn.write_marks()?;
        let place = |member: &Pending| {
            self.pulse.moved();
            member.place()
        };
        Ok(pending.iter().map(place).collect())
    }

    /// Renames all into place and syncs the folders that hold them.
    fn place(&self, pending: &[Pending]) -> Vec<Outcome> {
        let mut outcomes = match self.rename(pending) {
            Ok(outcomes) => outcomes,
            Err(why) => {
                let refused = Outcome::Refused(refusal("take the marks away from what was sent", why));
                return vec![refused; pending.len()];
            }
        };
        sync_folders(pending, &mut outcomes);
        let made = |member: &Pending| member.hidden.session.made(&member.id.package);
        let committed = |outcome: &Outcome| matches!(outcome, Outcome::Committed { .. });
        let mut new: Vec<_> =
            outcomes.iter_mut().zip(pending).filter(|(it, member)| committed(it) && made(member)).collect();
        if !new.is_empty()
            && let Err(why) = self.archive.root.sync()
        {
            let refused = Outcome::Refused(refusal("sync the archive's folder to disk", why));
            new.iter_mut().for_each(|(outcome, _)| **outcome = refused.clone());
        }
        outcomes
    }
}

/// Syncs what was staged: few things one by one, many by their whole file system.
fn sync(pending: &[Pending], unsynced: Unsynced) -> nix::Result<()> {
    if !unsynced.many {
        return unsynced.few.iter().try_for_each(fsync);
    }
    let mut synced = BTreeSet::new();
    for folder in pending.iter().map(|member| &member.hidden.folder) {
        if synced.insert(device(folder)?) {
            syncfs(folder)?;
        }
    }
    Ok(())
}

/// Syncs the folders in which something new stands; refuses what stands in one that could not be.
fn sync_folders(pending: &[Pending], outcomes: &mut [Outcome]) {
    let mut new: Vec<_> = pending.iter().zip(outcomes).collect();
    new.retain(|(_, outcome)| matches!(outcome, Outcome::Committed { .. }));
    let packages: BTreeSet<_> = new.iter().map(|(member, _)| &member.id.package).collect();
    let many = packages.len() > SINGLE_MAX;
    let (mut folders, mut devices) = (BTreeMap::new(), BTreeMap::new());
    for (member, outcome) in new {
        let folder = &member.hidden.folder;
        let synced = match many {
            true => device(folder).and_then(|it| *devices.entry(it).or_insert_with(|| syncfs(folder))),
            false => *folders.entry(&member.id.package).or_insert_with(|| folder.sync()),
        };
        if let Err(why) = synced {
            let attempt = format_args!("sync the folder of {} to disk", member.id);
            *outcome = Outcome::Refused(refusal(attempt, why));
        }
    }
}

fn device(folder: &Folder) -> nix::Result<u64> {
    fstat(folder).map(|found| found.st_dev)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use crate::manifest::Time;
    use crate::sessions::Session;

    fn pending(archive: &Arc<Archive>, session: &Arc<Session>, text: &str) -> Pending {
        let id = PackageVersion::new("a", "now").unwrap();
        let hidden =
            Hidden::link(archive, session, &id, text.as_bytes(), Time { seconds: 7, nanoseconds: 8 })
                .unwrap();
        Pending::link(0, id, text.into(), text.parse().unwrap(), hidden)
    }

    fn names(path: &Path) -> Vec<std::ffi::OsString> {
        let mut names: Vec<_> =
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn plain_renames_do_where_the_file_system_can_do_no_better() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Arc::new(Archive::open(dir.path().as_os_str().as_bytes()).unwrap());
        let session = Arc::new(Session::begin(&archive).unwrap());
        let place = dir.path().join("a/now");
        for (text, replace) in [("1", false), ("2", true)] {
            let pending = pending(&archive, &session, text);
            pending.rename_plainly(replace).unwrap();
            assert_eq!(std::fs::read_link(&place).unwrap(), Path::new(text));
        }
        assert_eq!(names(&dir.path().join("a")), ["now"], "what was replaced is removed");
        session.end();
    }

    #[test]
    fn many_or_large_files_are_not_held_open() {
        let mut unsynced = Unsynced::default();
        let open = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        unsynced.add(open(), SINGLE_BYTES_MAX);
        assert_eq!((unsynced.few.len(), unsynced.many), (1, false));
        unsynced.add(open(), 1);
        assert_eq!((unsynced.few.len(), unsynced.many), (0, true));
        let mut unsynced = Unsynced::default();
        (0..=SINGLE_MAX).for_each(|_| unsynced.add(open(), 1));
        unsynced.join(Unsynced::default());
        assert_eq!((unsynced.few.len(), unsynced.many), (0, true));
    }
}
