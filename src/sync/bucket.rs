//! Carrying a plan out in a bucket: packages side by side, then the objects of links. What is in excess
//! comes next, and the index last ([`age`]).
//!
//! What was put before an error, or a kill, stays; the next run finds it. The object of a link holds
//! what the link leads to at last, so it is made anew too when that was built again.

mod age;

use std::time::Instant;

use anyhow::anyhow;
use blat_target::listing::{Entry, Listing, ListingError, Stands};
use blat_target::mark::Mark;
use blat_target::message::{Refusal, Standing};
use blat_target::package::PackageVersion;
use blat_target::stamp::Stamp;
use tokio::task::JoinSet;

use super::carry::{Carried, FAILURES_TOLD};
use super::current_set::{CurrentSet, LINKS_MAX, Seen};
use super::known;
use super::plan::Plan;
use super::show::Show;
use crate::archive::Archive;
use crate::bucket::{self, Bucket, NotPut, Put, Source, State};
use crate::failure::{Failure, Needs, Result};
use crate::report::{Cause, Parts, Report, Reporter};

pub(super) use age::Age;

/// So many packages in a row that the server does not take are a server that takes none.
const IN_A_ROW: usize = 8;

/// What the bucket has, as a plan is made of it. Objects that are not ours count only where a member
/// would have to stand.
pub(super) fn listing(state: &State, set: &CurrentSet) -> Result<Listing, ListingError> {
    let is_member = |id: &&PackageVersion| set.place(id.package.as_str(), id.version.as_str()).is_some();
    let mut all: Vec<(&PackageVersion, Option<&bucket::Entry>)> =
        state.entries().iter().map(|(id, entry)| (id, Some(entry))).collect();
    all.extend(state.foreign().iter().filter(is_member).map(|id| (id, None)));
    all.sort_by_key(|(id, _)| *id);
    let mut listing = Listing::default();
    for (id, entry) in all {
        let stands = entry.map_or(Stands::Other, |entry| stands(set, id, entry));
        listing.push(Entry { package: id.package.as_str(), version: id.version.as_str(), stands })?;
    }
    Ok(listing)
}

/// A link's object that holds another build than the link leads to is none that stands as it should:
/// it is a package-version in a link's place.
fn stands<'a>(set: &CurrentSet, id: &PackageVersion, entry: &'a bucket::Entry) -> Stands<'a> {
    let stamp = Stamp(entry.stamp);
    let Some(link) = &entry.link else { return Stands::Version(stamp) };
    match leads_to(set, id).and_then(|(_, wanted)| wanted) {
        Some(wanted) if wanted != stamp => Stands::Version(stamp),
        _ => Stands::Link(link.as_bytes()),
    }
}

/// Where a member that is a link leads to at last, and the build that the source archive has there.
fn leads_to(set: &CurrentSet, id: &PackageVersion) -> Option<(PackageVersion, Option<Stamp>)> {
    let mut at = set.at(set.place(id.package.as_str(), id.version.as_str())?);
    for _ in 0..=LINKS_MAX {
        let Some(next) = at.addresses() else {
            let stamp = match at.seen {
                Seen::Version { stamp, .. } => Some(stamp),
                _ => None,
            };
            return Some((at.id(), stamp));
        };
        at = set.at(set.place(next.package.as_str(), next.version.as_str())?);
    }
    None
}

/// The marks, which the index has: since when something is in excess.
pub(super) fn marks(state: &State) -> Vec<Mark> {
    let mark = |(id, entry): (&PackageVersion, &bucket::Entry)| {
        let (id, since, stands) = (id.clone(), entry.excess_since?, standing(entry));
        Some(Mark { id, stands, since, after: None, master: String::new(), why: String::new() })
    };
    state.entries().iter().filter_map(mark).collect()
}

fn standing(entry: &bucket::Entry) -> Standing {
    match &entry.link {
        Some(link) => Standing::Link(link.clone().into_bytes()),
        None => Standing::Version(Stamp(entry.stamp)),
    }
}

fn micros(began: Instant) -> u64 {
    began.elapsed().as_micros() as u64
}

pub(super) struct Carry<'a> {
    pub(super) bucket: &'a Bucket,
    pub(super) archive: &'a Archive,
    pub(super) set: &'a CurrentSet,
    pub(super) state: &'a mut State,
    pub(super) reporter: &'a mut Reporter,
    pub(super) show: &'a mut Show,
    pub(super) carried: Carried,
    /// How many packages the server did not take since it took one.
    pub(super) in_a_row: usize,
}

/// What became of an upload, and how long it took, in microseconds.
type Ended = (PackageVersion, Result<Put, NotPut>, u64);

impl Carry<'_> {
    /// Puts what `plan` sends and links. It fails when the server takes nothing; the index is written all the
    /// same, if it can be, and what was put before is told.
    pub(super) async fn out(mut self, plan: &Plan) -> (Carried, Result<()>) {
        let ended = self.cleaned_and_put(plan).await;
        (self.carried, ended)
    }

    async fn cleaned_and_put(&mut self, plan: &Plan) -> Result<()> {
        self.bucket.clean().await?;
        let put = self.put(plan).await;
        if put.is_err() {
            let _ = self.state.write(self.bucket).await;
        }
        put
    }

    async fn put(&mut self, plan: &Plan) -> Result<()> {
        let sends = plan.sends.iter().map(|send| self.source(&send.id, &send.id, None));
        let sends: Vec<Source> = sends.collect();
        self.all(sends).await?;
        let mut links = Vec::new();
        for link in &plan.links {
            match self.link(&link.id, &link.text) {
                Ok(made) => links.push(made),
                Err(failure) => self.failed(&link.id, failure),
            }
        }
        self.all_links(links).await
    }

    fn source(&self, id: &PackageVersion, of: &PackageVersion, link: Option<String>) -> Source {
        let over = self.state.get(id).map(|entry| entry.etag.clone());
        Source { id: id.clone(), folder: self.archive.path(of), link, over }
    }

    /// Packs and uploads, several at a time.
    async fn all(&mut self, sources: Vec<Source>) -> Result<()> {
        let mut going: JoinSet<Ended> = JoinSet::new();
        let mut sources = sources.into_iter();
        loop {
            while going.len() < self.bucket.uploads()
                && let Some(source) = sources.next()
            {
                if self.state.foreign().contains(&source.id) {
                    let failure = self.bucket.foreign(&source.id);
                    self.failed(&source.id, failure);
                    continue;
                }
                let bucket = self.bucket.clone();
                going.spawn(async move {
                    let began = Instant::now();
                    let put = bucket.put(&source).await;
                    (source.id, put, micros(began))
                });
            }
            let Some(done) = going.join_next().await else { return Ok(()) };
            self.done(done.person("an upload panicked")?)?;
        }
    }

    fn done(&mut self, (id, put, micros): Ended) -> Result<()> {
        match put {
            Ok(put) => {
                self.tell_dropped_bits(&id, &put);
                self.committed(id, put.entry, put.bytes, micros);
            }
            Err(NotPut::Unreadable(failure)) => self.failed(&id, failure),
            Err(NotPut::Refused(failure)) => {
                self.in_a_row += 1;
                if self.in_a_row >= IN_A_ROW {
                    return Err(
                        failure.context(format!("{IN_A_ROW} packages in a row were not taken, the last"))
                    );
                }
                self.failed(&id, failure);
            }
        }
        Ok(())
    }

    /// What the object of a link is made of.
    fn link(&self, id: &PackageVersion, text: &str) -> Result<(bucket::Entry, Source)> {
        if self.state.foreign().contains(id) {
            return Err(self.bucket.foreign(id));
        }
        let (of, _) = leads_to(self.set, id)
            .ok_or_else(|| Failure::person(anyhow!("it leads to nothing that can be put")))?;
        let from = self.state.get(&of).filter(|entry| entry.link.is_none());
        let from = from.ok_or_else(|| Failure::later(anyhow!("{of}, which it leads to, is not there")))?;
        Ok((from.clone(), self.source(id, &of, Some(text.to_owned()))))
    }

    async fn all_links(&mut self, links: Vec<(bucket::Entry, Source)>) -> Result<()> {
        let (mut going, mut links) = (JoinSet::new(), links.into_iter());
        loop {
            while going.len() < self.bucket.uploads()
                && let Some((from, source)) = links.next()
            {
                let bucket = self.bucket.clone();
                going.spawn(async move {
                    let began = Instant::now();
                    let made = bucket.copy_or_put(&from, &source).await;
                    (source.id, made, micros(began))
                });
            }
            let Some(done) = going.join_next().await else { return Ok(()) };
            match done.person("a copy panicked")? {
                (id, Ok((entry, bytes)), micros) => self.committed(id, entry, bytes, micros),
                (id, Err(failure), _) => self.failed(&id, failure),
            }
        }
    }

    fn committed(&mut self, id: PackageVersion, entry: bucket::Entry, bytes: u64, micros: u64) {
        self.in_a_row = 0;
        match entry.link {
            None => self.carried.packages += 1,
            Some(_) => self.carried.links += 1,
        }
        self.carried.bytes += bytes;
        let stands = match &entry.link {
            None => known::Put::Version(Stamp(entry.stamp)),
            Some(text) => known::Put::Link(text.clone().into_bytes()),
        };
        self.carried.put.push((id.clone(), stands));
        self.show.committed(&id, bytes);
        self.reporter.tell(Report::Committed {
            package: id.package.to_string(),
            version: id.version.to_string(),
            bytes,
            replaced: self.state.get(&id).is_some(),
            cause: Cause::Sync,
            micros,
            parts: Parts::default(),
        });
        self.state.put(id, entry);
    }

    fn tell_dropped_bits(&mut self, id: &PackageVersion, put: &Put) {
        if let [first, ..] = &put.dropped_bits[..] {
            let reason = format!(
                "{id}: set-user-id and set-group-id bits do not travel; dropped from {} entries, such as {}",
                put.dropped_bits.len(),
                first.display()
            );
            self.reporter.tell(Report::Notice { reason });
        }
    }

    fn failed(&mut self, id: &PackageVersion, failure: Failure) {
        let refusal = Refusal::from(failure);
        if self.carried.failed.len() < FAILURES_TOLD {
            let reason = format!("{id} was not sent: {}", refusal.reason);
            self.reporter.tell(Report::Problem { reason, about: Some(id.clone()) });
        }
        self.carried.why.insert(id.clone(), refusal.reason.clone());
        self.carried.failed.push(refusal);
    }
}
