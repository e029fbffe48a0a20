//! `blat-target purge`: deletes what is marked for long enough.
//!
//! Its time of day is the earlier one of this machine's clock and the master's at the beginning of the last
//! good synchronisation. So a mark that no master has confirmed since it became old enough deletes
//! nothing: neither a clock that is wrong here, nor a master that cannot tell any more what is needed, makes
//! anything go early.
//!
//! What it is about to delete may be needed again, and left again, while it runs: each mark is looked at once more,
//! and one that was made anew counts from then on.
//!
//! A link that would dangle goes with what it addresses, and before it. What cannot be deleted is told, and
//! the rest goes on.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;

use nix::errno::Errno;

use crate::archive::Archive;
use crate::delete::{Doomed, HELD, links_to, remove_hidden, take_away};
use crate::history::{self, now};
use crate::mark::Mark;
use crate::message::{Mend, Ran, Refusal, Standing};
use crate::package::PackageVersion;
use crate::refusal::refusal;
use crate::serve::{EXIT_DONE, EXIT_LATER, EXIT_PERSON};
use crate::sessions::{Session, clear_all_unrecorded, clear_dead};
use crate::turn::Turns;

/// After so many deletions the marks are written, and at the end.
const WRITE_EVERY: usize = 100;
/// How many links may lead to one another before a package-version.
const LINKS_MAX: usize = 8;

/// Purges the archive at `path`, or only says what would go.
pub fn purge(path: &[u8], dry_run: bool) -> ExitCode {
    match Archive::open_as_its_owner(path) {
        Ok(archive) => {
            let mut purge = Purge::begin(Arc::new(archive));
            let ended = purge.run(dry_run);
            if let Err(refusal) = ended {
                purge.fails(&refusal);
            }
            purge.end(dry_run)
        }
        Err(refusal) => {
            eprintln!("blat-target: {}", refusal.reason);
            exit(Some(refusal.mend))
        }
    }
}

fn exit(mend: Option<Mend>) -> ExitCode {
    ExitCode::from(match mend {
        None => EXIT_DONE,
        Some(Mend::Later) => EXIT_LATER,
        Some(Mend::Person) => EXIT_PERSON,
    })
}

struct Purge {
    archive: Arc<Archive>,
    turns: Turns,
    session: Option<Arc<Session>>,
    gone: Vec<PackageVersion>,
    unwritten: usize,
    failed: u64,
    worst: Option<Mend>,
    trouble: Option<String>,
}

/// What is to go together, by its marks: links before what they address.
type Together = Vec<Mark>;

/// Why something that is due is not deleted.
#[derive(Debug)]
enum Stays {
    /// It is no more meant to be, or cannot be as things are.
    Wanted(String),
    /// What has to be known for that could not be looked at.
    Unseen(Refusal),
}

impl Purge {
    fn begin(archive: Arc<Archive>) -> Self {
        let turns = Turns::new(archive.clone());
        let (gone, trouble) = (Vec::new(), None);
        Self { archive, turns, session: None, gone, unwritten: 0, failed: 0, worst: None, trouble }
    }

    fn run(&mut self, dry_run: bool) -> Result<(), Refusal> {
        if !dry_run {
            clear_dead(&self.archive).iter().for_each(|refusal| self.fails(refusal));
            clear_all_unrecorded(&self.archive).iter().for_each(|refusal| self.fails(refusal));
        }
        let (due, most) = self.due()?;
        if dry_run && self.turn()?.is_held() {
            println!("{HELD}");
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        let mut count = 0;
        for mark in &due {
            if seen.contains(&mark.id) {
                continue;
            }
            let mut together: Together = match self.with_links(mark) {
                Ok(together) => together.into_iter().filter(|mark| seen.insert(mark.id.clone())).collect(),
                Err(Stays::Wanted(why)) => {
                    println!("{why}");
                    continue;
                }
                Err(Stays::Unseen(refusal)) => {
                    self.fails(&refusal);
                    continue;
                }
            };
            // Links come first, so that what is cut off leaves none of them behind that leads nowhere: and who may
            // delete few in a run gets to the end of many that go together.
            let is_too_much = count + together.len() as u64 > most;
            together.truncate((most - count) as usize);
            if dry_run {
                together.iter().for_each(|mark| println!("would delete {}", mark.id));
                count += together.len() as u64;
            } else {
                let before = self.gone.len();
                let goes_on = self.delete_all(&together)?;
                // What cannot go takes no place of what can.
                count += (self.gone.len() - before) as u64;
                if !goes_on {
                    break;
                }
            }
            if is_too_much {
                println!("no more than {most} are deleted in one run: the rest waits for the next");
                break;
            }
        }
        self.write_marks()
    }

    /// What is marked for long enough, and how much of it may go.
    fn due(&self) -> Result<(Together, u64), Refusal> {
        let mut turn = self.turn()?;
        let confirmed = turn.marks().confirmed();
        let now = now().min(confirmed.at);
        let old = turn.marks().iter().filter(|mark| {
            let age = mark.age(now);
            mark.after.is_some_and(|after| age.is_some_and(|age| age >= after))
        });
        Ok((old.cloned().collect(), confirmed.max_delete))
    }

    /// What goes when what has this mark goes: the links that lead to it, before it. An error says why it stays.
    fn with_links(&self, due: &Mark) -> Result<Together, Stays> {
        let (mut turn, id) = (self.turn().map_err(Stays::Unseen)?, &due.id);
        if turn.marks().get(id) != Some(due) {
            return Err(Stays::Wanted(format!("{id} stays: its mark was taken away, or made anew")));
        }
        let unseen = |why| Stays::Unseen(refusal(format_args!("look for links to {id}, which stays"), why));
        let folder = match self.archive.root.below(id.package.as_str().as_bytes()) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(Vec::new()),
            opened => opened.map_err(unseen)?,
        };
        let mut together = vec![id.clone()];
        for _ in 0..=LINKS_MAX {
            let last = together.len();
            for at in 0..last {
                let addressed = together[at].clone();
                for (link, text) in links_to(&self.archive, &folder, &addressed).map_err(unseen)? {
                    let counts =
                        turn.marks().get(&link).is_some_and(|mark| mark.stands == Standing::Link(text));
                    if !counts {
                        let why = format!("{id} stays: the link {link}, which has no mark, leads to it");
                        return Err(Stays::Wanted(why));
                    }
                    if !together.contains(&link) {
                        together.push(link);
                    }
                }
            }
            if together.len() == last {
                let marks = turn.marks();
                return Ok(together.iter().rev().filter_map(|id| marks.get(id).cloned()).collect());
            }
        }
        Err(Stays::Wanted(format!("{id} stays: too many links lead to it, or lead in a circle")))
    }

    /// Deletes them in this order, up to the first that stays; false when a person stops it all.
    fn delete_all(&mut self, together: &Together) -> Result<bool, Refusal> {
        for mark in together {
            let id = &mark.id;
            let session = self.session()?;
            let taken = {
                let mut turn = self.turn()?;
                if turn.is_held() {
                    println!("{HELD}");
                    return Ok(false);
                }
                let taken = take_away(&self.archive, &session, &mut turn, id, |found| found == mark);
                if matches!(taken, Ok(Doomed::Hidden(_))) {
                    let _ = history::deleted(turn.own(), id, "purge");
                }
                taken
            };
            match taken {
                Ok(Doomed::Absent) => self.gone.push(id.clone()),
                Ok(Doomed::Hidden(hidden)) => {
                    println!("deleted {id}");
                    self.gone.push(id.clone());
                    if let Err(refusal) = remove_hidden(&self.archive, id, hidden) {
                        self.fails(&refusal);
                    }
                }
                // What a link leads to that stays would stay as well.
                Ok(Doomed::Stays(why)) => {
                    println!("{why}");
                    return Ok(true);
                }
                Err(refusal) => {
                    self.fails(&refusal);
                    return Ok(true);
                }
            }
            self.unwritten += 1;
            if self.unwritten >= WRITE_EVERY {
                self.write_marks()?;
            }
        }
        Ok(true)
    }

    /// Takes the marks of what is gone off record.
    fn write_marks(&mut self) -> Result<(), Refusal> {
        let from = self.gone.len() - self.unwritten;
        forget_gone(&self.archive, &self.turns, &self.gone[from..])?;
        self.unwritten = 0;
        Ok(())
    }

    fn fails(&mut self, refusal: &Refusal) {
        eprintln!("blat-target: {}", refusal.reason);
        self.failed += 1;
        if self.worst != Some(Mend::Person) {
            self.worst = Some(refusal.mend);
        }
        self.trouble.get_or_insert_with(|| refusal.reason.clone());
    }

    fn end(mut self, dry_run: bool) -> ExitCode {
        if let Some(session) = self.session.take() {
            session.end();
        }
        if !dry_run {
            let (count, failed) = (self.gone.len() as u64, self.failed);
            println!("purged: {count} deleted, {failed} failed");
            let ran = Ran { at: now(), count, failed, trouble: self.trouble.take() };
            let written = self.turn().map(|turn| history::ran(turn.own(), history::PURGE, &ran));
            if let Ok(Err(why)) = written {
                eprintln!("blat-target: cannot write down that this ran: {why}");
            }
        }
        exit(self.worst)
    }

    fn turn(&self) -> Result<crate::turn::Turn<'_>, Refusal> {
        self.turns.take().map_err(|why| refusal("read the marks in .dpkg_archive", why))
    }

    fn session(&mut self) -> Result<Arc<Session>, Refusal> {
        if let Some(session) = &self.session {
            return Ok(session.clone());
        }
        let session = Arc::new(Session::begin(&self.archive)?);
        Ok(self.session.insert(session).clone())
    }
}

/// Takes the marks of these off record, as far as nothing stands there now.
pub(crate) fn forget_gone(archive: &Archive, turns: &Turns, gone: &[PackageVersion]) -> Result<(), Refusal> {
    if gone.is_empty() {
        return Ok(());
    }
    let failed = |why| refusal("write the marks in .dpkg_archive", why);
    let mut turn = turns.take().map_err(failed)?;
    for id in gone {
        if archive.standing(id) == Ok(Standing::Absent) {
            turn.marks().remove(id);
        }
    }
    turn.write_marks().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::time::{Duration, UNIX_EPOCH};

    use crate::marks::Confirmed;
    use crate::stamp::Stamp;

    #[test]
    fn what_is_marked_anew_while_the_purge_runs_stays() {
        let dir = tempfile::tempdir().unwrap();
        let versions = ["1", "2", "3"].map(|version| dir.path().join("a").join(version));
        for version in &versions {
            std::fs::create_dir_all(version).unwrap();
            let descpkg = std::fs::File::create(version.join("descpkg")).unwrap();
            descpkg.set_modified(UNIX_EPOCH + Duration::from_secs(7)).unwrap();
        }
        let archive = Archive::open(dir.path().as_os_str().as_bytes()).unwrap();
        let mut purge = Purge::begin(Arc::new(archive));
        let mark = |purge: &Purge, version: &str, since: i64| {
            let id = PackageVersion::new("a", version).unwrap();
            let (stands, after) = (Standing::Version(Stamp(7)), Some(60));
            let mark = Mark { id, stands, since, after, master: "m".into(), why: "it left".into() };
            let mut turn = purge.turn().unwrap();
            turn.marks().add(mark);
            turn.marks().confirm(Confirmed { at: now(), max_delete: 9 });
            turn.write_marks().unwrap();
        };
        ["1", "2", "3"].iter().for_each(|version| mark(&purge, version, 5));
        let (due, _) = purge.due().unwrap();
        assert_eq!(due.len(), 3);
        let together = due.iter().map(|due| purge.with_links(due).unwrap()).collect::<Vec<_>>();
        // Needed again, and not any more: before anybody looks at it, and after that.
        mark(&purge, "1", now());
        assert!(purge.with_links(&due[0]).is_err());
        mark(&purge, "2", now());
        for together in &together {
            assert!(purge.delete_all(together).unwrap());
        }
        assert_eq!(versions.map(|version| version.exists()), [true, true, false]);
    }
}
