//! What a session says of excess. A helper of protocol 1 knows none of it: [`Session::ages`] tells.

use std::collections::HashMap;

use blat_target::mark::Mark;
use blat_target::message::{Info, QUERY_MAX, Standing, ToHost, ToTarget};
use blat_target::package::PackageVersion;

use super::{Session, unexpected};
use crate::failure::Result;
use crate::packer::Job;

/// The first protocol with marks.
const PROTOCOL_WITH_MARKS: u16 = 2;

/// What is asked in a session of this protocol to say that `ids` are needed, and to hear what stands there and
/// in the places of `others`.
pub(super) fn need(protocol: u16, ids: &[PackageVersion], others: &[PackageVersion]) -> Vec<ToTarget> {
    let needed = if protocol >= PROTOCOL_WITH_MARKS { ToTarget::Unmark } else { ToTarget::Query };
    let needed = ids.chunks(QUERY_MAX).map(|part| needed(part.to_vec()));
    let others = others.chunks(QUERY_MAX).map(|part| ToTarget::Query(part.to_vec()));
    needed.chain(others).collect()
}

impl Session {
    /// Whether the target knows of marks.
    pub fn ages(&self) -> bool {
        self.hello.protocol >= PROTOCOL_WITH_MARKS
    }

    /// Says that `ids` are needed, so that nobody deletes what stands there; what that is, and what stands
    /// in the places of `others`, in one round trip.
    pub async fn need(
        &mut self,
        ids: &[PackageVersion],
        others: &[PackageVersion],
    ) -> Result<HashMap<PackageVersion, Standing>> {
        for question in need(self.hello.protocol, ids, others) {
            self.ask(question)?;
        }
        // Of those that are both, what stood there once they were needed counts.
        let mut found = HashMap::new();
        for part in ids.chunks(QUERY_MAX).chain(others.chunks(QUERY_MAX)) {
            for (id, standing) in part.iter().zip(self.standing(part.len()).await?) {
                found.entry(id.clone()).or_insert(standing);
            }
        }
        Ok(found)
    }

    /// All marks, and what went on at the target.
    pub async fn marks(&mut self) -> Result<(Vec<Mark>, Info)> {
        self.ask(ToTarget::Marks)?;
        let mut marks = Vec::new();
        loop {
            match self.said().await? {
                ToHost::Marks(some) => marks.extend(some),
                ToHost::Info(info) => return Ok((marks, info)),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Marks what is what it is said to be; how many have a mark now.
    pub async fn mark(
        &mut self,
        what: &[(PackageVersion, Standing)],
        after: Option<u64>,
        why: &str,
    ) -> Result<u64> {
        let mut count = 0;
        for part in what.chunks(QUERY_MAX) {
            let (what, why) = (part.to_vec(), why.to_owned());
            self.push(Job::Say(ToTarget::Mark { what, after, why }))?;
            match self.said().await? {
                ToHost::Marked(some) => count += some,
                other => return Err(unexpected(&other)),
            }
        }
        Ok(count)
    }

    /// Has something deleted that is marked; its number, by which the outcome speaks of it.
    pub fn send_delete(&mut self, id: PackageVersion, stands: Standing) -> Result<u64> {
        let number = self.next_number();
        self.push(Job::Delete { number, id, stands })?;
        Ok(number)
    }

    /// Says that a good synchronisation went through all marks.
    pub async fn confirm(&mut self, max_delete: u64) -> Result<Info> {
        self.ask_info(ToTarget::Confirm { max_delete }).await
    }

    /// Has all deletion held back, for this reason, or not any more.
    pub async fn hold(&mut self, reason: Option<String>) -> Result<Info> {
        self.ask_info(ToTarget::Hold(reason)).await
    }

    async fn ask_info(&mut self, question: ToTarget) -> Result<Info> {
        self.push(Job::Say(question))?;
        match self.said().await? {
            ToHost::Info(info) => Ok(info),
            other => Err(unexpected(&other)),
        }
    }
}
