//! What a session asks along with the hello, which saves a round trip.

use std::collections::VecDeque;

use blat_target::frame;
use blat_target::message::{Digest, ToTarget};
use blat_target::package::PackageVersion;

use super::Session;
use super::aging::need;
use crate::failure::{Failure, Result};
use crate::packer::Job;

/// Questions of so many bytes at most are asked along with the hello: they are said before anything is heard,
/// and on the helper's command line, of which a shell takes 128 KiB, and some less. Where there are more, what
/// a round trip takes is little beside the rest.
const EARLY_MAX: usize = 8 << 10;

/// What the first questions of a session will be.
#[derive(Clone, Debug)]
pub enum Early {
    Nothing,
    /// [`Session::list`] of what is `known`, and [`Session::marks`] where the session has them.
    List {
        known: Digest,
    },
    /// [`Session::need`] of these.
    Need {
        ids: Vec<PackageVersion>,
        others: Vec<PackageVersion>,
    },
}

impl Early {
    /// The questions, in a session of this protocol; none where they are too long.
    pub(super) fn questions(&self, protocol: u16) -> VecDeque<ToTarget> {
        let questions = match self {
            Self::Nothing => Vec::new(),
            Self::List { known } => vec![ToTarget::List { known: Some(*known) }, ToTarget::Marks],
            Self::Need { ids, others } => need(protocol, ids, others),
        };
        let questions: VecDeque<_> =
            questions.into_iter().filter(|question| question.since() <= protocol).collect();
        let bytes: usize = questions.iter().map(|question| frame::message(question).len()).sum();
        if bytes <= EARLY_MAX { questions } else { VecDeque::new() }
    }
}

impl Session {
    /// Asks, unless just that was asked along with the hello.
    pub(super) fn ask(&mut self, question: ToTarget) -> Result<()> {
        match self.early.pop_front() {
            Some(early) if early == question => Ok(()),
            Some(early) => Err(Failure::later(anyhow::anyhow!("{early:?} was asked before {question:?}"))),
            None => self.push(Job::Say(question)),
        }
    }

    /// Hears what was asked along with the hello, for a session that is for something else.
    pub async fn drop_early(&mut self) -> Result<()> {
        while let Some(question) = self.early.front().cloned() {
            match question {
                ToTarget::List { known } => self.list(known).await.map(drop)?,
                ToTarget::Marks => self.marks().await.map(drop)?,
                ToTarget::Unmark(ref places) | ToTarget::Query(ref places) => {
                    let count = places.len();
                    self.ask(question)?;
                    self.standing(count).await?;
                }
                other => return Err(Failure::later(anyhow::anyhow!("{other:?} was asked too early"))),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(version: &str) -> PackageVersion {
        PackageVersion::new("core", version).unwrap()
    }

    #[test]
    fn each_protocol_is_asked_what_it_has() {
        let known = Digest([7; 32]);
        let list = ToTarget::List { known: Some(known) };
        let both = [list, ToTarget::Marks];
        assert_eq!(Early::List { known }.questions(2), both);
        assert_eq!(Early::List { known }.questions(1), &both[..1]);
        let need = Early::Need { ids: vec![id("2")], others: vec![id("1")] };
        let other = ToTarget::Query(vec![id("1")]);
        assert_eq!(need.questions(1), [ToTarget::Query(vec![id("2")]), other.clone()]);
        assert_eq!(need.questions(2), [ToTarget::Unmark(vec![id("2")]), other]);
        assert!(Early::Nothing.questions(2).is_empty());
        let many = Early::Need { ids: vec![id("2"); EARLY_MAX / 4], others: Vec::new() };
        assert!(many.questions(2).is_empty());
    }
}
