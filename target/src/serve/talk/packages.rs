//! The packages of a session: in full, told by another one, or the rest of one that was cut off.

use crate::commit::{Pending, Unsynced};
use crate::inflate::Packed;
use crate::manifest::ENTRIES_MAX;
use crate::message::{DeltaHead, Outcome, PackageHead, Partial, Refusal, RestHead, Standing, ToHost};
use crate::rebuild::{Doubtful, Rebuilt, Told, rebuild};
use crate::receive::{manifest, receive};
use crate::refusal::{End, Stop};
use crate::resume::Kept;

use super::{Talk, unless_refused};

/// How many packages may wait to be mended, and how many entries they may have together.
const DOUBTFUL_MAX: usize = 64;
const DOUBTFUL_ENTRIES_MAX: usize = ENTRIES_MAX as usize;
/// How many digests one [`ToHost::Kept`] has at most.
const KEPT_TOLD: usize = 16 << 10;

impl Talk {
    /// A package that comes in full, as a tar.
    pub(super) fn package(&mut self, head: PackageHead) -> Result<(), End> {
        self.count(head.number)?;
        self.leave_kept(&head);
        if self.stands_needed(&head)? {
            return self.unchanged(&head);
        }
        let session = self.session()?;
        let packed = Packed::new(&mut self.inflate, &mut self.intake);
        let came = receive(&head, &self.archive, &session, &packed);
        let came = unless_refused(came, &head.id, head.number, &self.output, packed)?;
        self.commit_soon(came);
        Ok(())
    }

    /// Whether this very build stands there already; if so, it has no mark any more.
    fn stands_needed(&self, head: &PackageHead) -> Result<bool, End> {
        let wanted = Standing::Version(head.stamp);
        let stands = self.archive.standing(&head.id).as_ref() == Ok(&wanted);
        Ok(stands && self.aging.is_needed(&head.id, &wanted).map_err(End::Failed)?)
    }

    /// A package that comes in full, without a tar.
    pub(super) fn whole(&mut self, head: PackageHead) -> Result<(), End> {
        self.count(head.number)?;
        self.leave_kept(&head);
        self.rebuild(Told::whole(head))
    }

    /// A package that is told by another one.
    pub(super) fn delta(&mut self, delta: DeltaHead) -> Result<(), End> {
        self.count(delta.head.number)?;
        self.leave_kept(&delta.head);
        self.rebuild(delta.into())
    }

    /// Tells what is kept of a package.
    pub(super) fn resume(&mut self, what: Partial) -> Result<(), End> {
        // What waits may take long.
        self.intake.group.commit()?;
        let kept = Kept::find(&self.archive, what, || self.intake.pulse.moved());
        for digests in kept.digests().chunks(KEPT_TOLD) {
            self.output.say(&ToHost::Kept(digests.to_vec()))?;
        }
        let (bytes, digest) = kept.part();
        self.output.say(&ToHost::KeptPart { bytes, digest })?;
        self.kept = Some(kept);
        Ok(())
    }

    /// The rest of a package of which a part is kept.
    pub(super) fn rest(&mut self, rest: RestHead) -> Result<(), End> {
        self.count(rest.head.number)?;
        match self.kept.take() {
            Some(kept) if (&kept.what().id, kept.what().stamp) == (&rest.head.id, rest.head.stamp) => {
                self.rebuild(Told::rest(rest, kept))
            }
            _ => Err(End::broken("the host goes on with a package that it did not ask about")),
        }
    }

    /// What is kept of a package that comes whole is nobody's business any more.
    fn leave_kept(&mut self, head: &PackageHead) {
        if let Some(kept) = self.kept.take_if(|kept| kept.what().id == head.id) {
            kept.discard();
        }
    }

    fn rebuild(&mut self, told: Told) -> Result<(), End> {
        let head = told.head.clone();
        if self.stands_needed(&head)? {
            return self.unchanged(&head);
        }
        let session = self.session()?;
        let packed = Packed::new(&mut self.inflate, &mut self.intake);
        let came = rebuild(told, self.hard_links, &self.archive, &session, &packed);
        match unless_refused(came, &head.id, head.number, &self.output, packed)? {
            Some(Rebuilt::Doubtful(doubtful)) => return self.doubt(*doubtful),
            Some(Rebuilt::Complete(built)) => self.commit_soon(Some(*built)),
            None => {}
        }
        Ok(())
    }

    /// Tells what was made of files that are wrong, and keeps the package until they come.
    fn doubt(&mut self, doubtful: Doubtful) -> Result<(), End> {
        let head = doubtful.head();
        let number = head.number;
        let held: usize = self.doubtful.values().map(Doubtful::entries).sum();
        if self.doubtful.len() == DOUBTFUL_MAX || held + doubtful.entries() > DOUBTFUL_ENTRIES_MAX {
            let id = &head.id;
            let why = format!("{id}: what it was told by is damaged on the target, as is too much else");
            return self.output.answer(number, Outcome::Refused(Refusal::later(why)));
        }
        for broken in doubtful.broken() {
            let (group, digests) = (broken.group, broken.digests.clone());
            self.output.say(&ToHost::Made { number, group, digests })?;
        }
        self.output.say(&ToHost::Doubt { number })?;
        self.doubtful.insert(number, doubtful);
        Ok(())
    }

    pub(super) fn mend(&mut self, number: u64, files: u32) -> Result<(), End> {
        let Some(doubtful) = self.doubtful.remove(&number) else {
            return Err(End::broken("the host mends a package that is not in doubt"));
        };
        let id = doubtful.head().id.clone();
        let packed = Packed::new(&mut self.inflate, &mut self.intake);
        let came = doubtful.mend(files, &packed);
        let came = unless_refused(came, &id, number, &self.output, packed)?;
        self.commit_soon(came);
        self.stage_waiting()
    }

    /// Answers for a package that stands already, and drops its bytes.
    fn unchanged(&mut self, head: &PackageHead) -> Result<(), End> {
        self.output.answer(head.number, Outcome::Unchanged)?;
        let packed = Packed::new(&mut self.inflate, &mut self.intake);
        // Only to know how much may follow.
        match manifest(head, &packed) {
            Err(Stop::End(end)) => Err(end),
            _ => packed.drop_rest(),
        }
    }

    /// Has what was staged committed with the next group.
    fn commit_soon(&mut self, staged: Option<(Pending, Unsynced)>) {
        if let Some((pending, unsynced)) = staged {
            self.intake.group.add(pending, unsynced);
        }
    }
}
