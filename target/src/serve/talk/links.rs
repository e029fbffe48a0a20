//! The links of a session. One that addresses a package in doubt waits until that is mended or refused, and so
//! does what addresses such a link: each is committed behind what it addresses.

use crate::commit::{Pending, Unsynced};
use crate::manifest::Time;
use crate::message::{Outcome, Refusal};
use crate::package::{PackageVersion, link_target};
use crate::refusal::End;
use crate::stage::Hidden;

use super::Talk;

/// How many links may wait; what comes then is refused for later, if nothing stands there.
const WAITING_MAX: usize = 1000;

pub(super) struct Link {
    number: u64,
    id: PackageVersion,
    text: Vec<u8>,
    modified: Time,
    addressed: PackageVersion,
}

impl Talk {
    pub(super) fn link(
        &mut self,
        number: u64,
        id: PackageVersion,
        text: Vec<u8>,
        modified: Time,
    ) -> Result<(), End> {
        self.count(number)?;
        match link_target(&id, &text) {
            Ok(addressed) => self.stage_in_order(Link { number, id, text, modified, addressed }),
            Err(why) => self.output.answer(number, Outcome::Refused(Refusal::person(why.to_string()))),
        }
    }

    /// Stages the links that wait for nothing any more.
    pub(super) fn stage_waiting(&mut self) -> Result<(), End> {
        std::mem::take(&mut self.waiting).into_iter().try_for_each(|link| self.stage_in_order(link))
    }

    /// Stages the links that wait, for nothing more comes.
    pub(super) fn stage_all_waiting(&mut self) -> Result<(), End> {
        std::mem::take(&mut self.waiting).into_iter().try_for_each(|link| self.stage(link))
    }

    fn stage_in_order(&mut self, link: Link) -> Result<(), End> {
        if self.waits(&link) && self.waiting.len() < WAITING_MAX {
            self.waiting.push(link);
            return Ok(());
        }
        self.stage(link)
    }

    fn waits(&self, link: &Link) -> bool {
        let mut in_doubt = self.doubtful.values();
        let mut before = self.waiting.iter();
        in_doubt.any(|doubtful| doubtful.head().id == link.addressed)
            || before.any(|before| before.id == link.addressed || before.id == link.id)
    }

    fn stage(&mut self, link: Link) -> Result<(), End> {
        let session = self.session()?;
        let Link { number, id, text, modified, addressed } = link;
        match Hidden::link(&self.archive, &session, &id, &text, modified) {
            Ok(hidden) => {
                let pending = Pending::link(number, id, text, addressed.version, hidden);
                self.intake.group.add(pending, Unsynced::default());
                Ok(())
            }
            Err(refusal) => self.output.answer(number, Outcome::Refused(refusal)),
        }
    }
}
