//! What a host says of excess in a session: marks made and taken away, deletions, a hold.
//!
//! Each answer is given after what it tells of is on disk (marks) or out of sight (deletions).

use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;

use crate::archive::Archive;
use crate::delete::{Doomed, remove_hidden, take_away};
use crate::folder::Folder;
use crate::history::{self, last, last_deleted, now};
use crate::mark::Mark;
use crate::marks::Confirmed;
use crate::message::{HostHello, Info, Outcome, Refusal, Standing, ToHost};
use crate::package::PackageVersion;
use crate::partial::with_room;
use crate::purge::forget_gone;
use crate::refusal::refusal;
use crate::sessions::Session;
use crate::turn::{HOLD, Turn, Turns};

/// How many marks are told in one message.
const MARKS_AT_ONCE: usize = 500;
/// After so many deletions the marks are written.
const WRITE_EVERY: usize = 100;
/// How much of a hold's reason is told, in bytes.
const REASON_MAX: usize = 1000;

/// A session's part in aging.
pub(crate) struct Aging {
    archive: Arc<Archive>,
    turns: Arc<Turns>,
    master: String,
    /// The master's clock when the session began, and when that was.
    clock: i64,
    began: Instant,
    /// What was deleted, and whose marks still stand.
    gone: Vec<PackageVersion>,
}

impl Aging {
    pub(crate) fn new(archive: Arc<Archive>, turns: Arc<Turns>, host: &HostHello) -> Self {
        let (master, clock) = (host.master.clone(), host.clock);
        Self { archive, turns, master, clock, began: Instant::now(), gone: Vec::new() }
    }

    /// Whether this very build stands there; if it does, it loses its mark.
    pub(crate) fn is_needed(&self, id: &PackageVersion, wanted: &Standing) -> Result<bool, Refusal> {
        let mut turn = self.turn()?;
        if self.archive.standing(id).as_ref() != Ok(wanted) {
            return Ok(false);
        }
        turn.marks().remove(id);
        write(&mut turn).map(|()| true)
    }

    /// Takes marks away, and tells what stands there then.
    pub(crate) fn unmark(&self, ids: &[PackageVersion]) -> Result<ToHost, Refusal> {
        let mut turn = self.turn()?;
        ids.iter().for_each(|id| turn.marks().remove(id));
        write(&mut turn)?;
        let standing = |id| self.archive.standing(id).unwrap_or(Standing::Other);
        Ok(ToHost::Standing(ids.iter().map(standing).collect()))
    }

    /// All marks, and what went on.
    pub(crate) fn marks(&self) -> Result<Vec<ToHost>, Refusal> {
        let mut turn = self.turn()?;
        let marks: Vec<_> = turn.marks().iter().cloned().collect();
        let mut told: Vec<_> = marks.chunks(MARKS_AT_ONCE).map(|some| ToHost::Marks(some.to_vec())).collect();
        told.push(ToHost::Info(self.info(turn.own())));
        Ok(told)
    }

    /// Marks what is what it is said to be.
    pub(crate) fn mark(
        &self,
        what: Vec<(PackageVersion, Standing)>,
        after: Option<u64>,
        why: &str,
    ) -> Result<ToHost, Refusal> {
        let mut turn = self.turn()?;
        let (latest, mut count) = (now().max(self.master_clock()), 0);
        for (id, stands) in what {
            let can_be = matches!(stands, Standing::Version(_) | Standing::Link(_));
            if !can_be || self.archive.standing(&id).as_ref() != Ok(&stands) {
                continue;
            }
            let before = turn.marks().get(&id).filter(|mark| mark.stands == stands);
            // A mark of the future was made by a clock that was wrong.
            let since = before.map_or(latest, |mark| mark.since.min(latest));
            let (master, why) = (self.master.clone(), why.to_owned());
            turn.marks().add(Mark { id, stands, since, after, master, why });
            count += 1;
        }
        write(&mut turn)?;
        Ok(ToHost::Marked(count))
    }

    /// Deletes what is what it is said to be, and marked.
    pub(crate) fn delete(
        &mut self,
        session: &Arc<Session>,
        id: &PackageVersion,
        stands: &Standing,
    ) -> Outcome {
        match self.try_delete(session, id, stands) {
            Ok(outcome) => outcome,
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    fn try_delete(
        &mut self,
        session: &Arc<Session>,
        id: &PackageVersion,
        stands: &Standing,
    ) -> Result<Outcome, Refusal> {
        let taken = {
            let mut turn = self.turn()?;
            let taken = take_away(&self.archive, session, &mut turn, id, |mark| mark.stands == *stands)?;
            if let Doomed::Stays(why) = taken {
                return Err(Refusal::later(why));
            }
            if matches!(taken, Doomed::Hidden(_)) {
                let _ = history::deleted(turn.own(), id, &self.master);
            }
            taken
        };
        self.gone.push(id.clone());
        if self.gone.len() >= WRITE_EVERY {
            self.write_gone()?;
        }
        match taken {
            Doomed::Absent | Doomed::Stays(_) => Ok(Outcome::Unchanged),
            Doomed::Hidden(hidden) => {
                remove_hidden(&self.archive, id, hidden).map(|()| Outcome::Committed { replaced: true })
            }
        }
    }

    /// Takes the marks of what was deleted off record.
    pub(crate) fn write_gone(&mut self) -> Result<(), Refusal> {
        forget_gone(&self.archive, &self.turns, &std::mem::take(&mut self.gone))
    }

    /// A good synchronisation has gone through all marks: it knew what was needed when the session began.
    /// What was sent since may have taken hours, so a mark that became old enough meanwhile is not confirmed.
    pub(crate) fn confirm(&mut self, max_delete: u64) -> Result<ToHost, Refusal> {
        self.write_gone()?;
        let mut turn = self.turn()?;
        turn.marks().confirm(Confirmed { at: self.clock, max_delete });
        write(&mut turn)?;
        Ok(ToHost::Info(self.info(turn.own())))
    }

    /// Holds deletion back, or not any more. What is being deleted has its turn before that.
    pub(crate) fn hold(&self, reason: Option<&str>) -> Result<ToHost, Refusal> {
        let turn = self.turn()?;
        let failed = |why| refusal("hold deletion back, or end that, in .dpkg_archive/hold", why);
        match reason {
            Some(reason) => {
                let text = format!("{} {}\n", self.master, reason.replace(char::is_control, " "));
                with_room(&self.archive, || history::replace(turn.own(), "hold", text.as_bytes()))
                    .map_err(failed)?;
                turn.own().sync().map_err(failed)?;
            }
            None => match turn.own().unlink(HOLD) {
                Ok(()) | Err(Errno::ENOENT) => (),
                Err(why) => return Err(failed(why)),
            },
        }
        Ok(ToHost::Info(self.info(turn.own())))
    }

    fn info(&self, own: &Folder) -> Info {
        let (free_bytes, free_inodes) = self.archive.free();
        Info {
            clock: now(),
            free_bytes,
            free_inodes,
            hold: hold(own),
            index: last(own, history::INDEX),
            purge: last(own, history::PURGE),
            deleted: last_deleted(own),
        }
    }

    fn master_clock(&self) -> i64 {
        self.clock.saturating_add(self.began.elapsed().as_secs() as i64)
    }

    fn turn(&self) -> Result<Turn<'_>, Refusal> {
        self.turns.take().map_err(|why| refusal("read the marks in .dpkg_archive", why))
    }
}

fn write(turn: &mut Turn<'_>) -> Result<(), Refusal> {
    turn.write_marks().map_err(|why| refusal("write the marks in .dpkg_archive", why))
}

/// Why deletion is held back, if it is; by whatever stands there.
fn hold(own: &Folder) -> Option<String> {
    use std::io::Read;
    if own.stat(HOLD) == Ok(None) {
        return None;
    }
    let mut text = Vec::new();
    if let Ok(file) = own.file(HOLD) {
        let _ = file.take(REASON_MAX as u64).read_to_end(&mut text);
    }
    Some(String::from_utf8_lossy(&text).trim().to_owned())
}
