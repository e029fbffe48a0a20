//! A round of tags into a bucket: each step's place is looked at, what is not there is put, the index
//! is written, and then the claims are settled.

use std::time::SystemTime;

use blat_target::message::{Mend, Outcome, Refusal};
use blat_target::package::PackageVersion;
use blat_target::stamp::Stamp;
use tokio::task::JoinSet;

use super::resolve::{Step, Want};
use super::round::{Failed, Round};
use super::{Run, Sent};
use crate::archive::Archive;
use crate::bucket::{Bucket, NotPut, Put, Source, State};
use crate::config::S3;
use crate::failure::{Failure, Needs, Result};

/// What became of a step: what it replaced was there, or not.
type Ended = Result<(bool, u64), Failed>;

impl Run<'_> {
    /// Puts what the steps of `round` ask for.
    pub(super) async fn put(&mut self, settings: &S3, mut round: Round) -> Result<()> {
        let archive = Archive::open(&self.settings.source).later("cannot read the source archive")?;
        let bucket = Bucket::open(&self.settings.name, settings, &self.places.transfer_uploads()).await?;
        bucket.clean().await?;
        let mut state = State::of_index(&bucket).await?;
        let mut putting = Putting { bucket: &bucket, archive: &archive, state: &mut state };
        let ended = putting.steps(&round.steps.clone()).await;
        // The objects are there, whatever becomes of the index: but nothing is done before it is.
        state.write(&bucket).await?;
        for (at, ended) in ended? {
            self.put_ended(&mut round, at, ended);
        }
        Ok(())
    }

    fn put_ended(&mut self, round: &mut Round, at: usize, ended: Option<Ended>) {
        let number = at as u64;
        round.sent(at, number);
        let (outcome, bytes) = match ended {
            None => (Outcome::Unchanged, 0),
            Some(Ok((replaced, bytes))) => (Outcome::Committed { replaced }, bytes),
            Some(Err(Failed::Refused(refusal))) => (Outcome::Refused(refusal), 0),
            Some(Err(unreadable)) => {
                let settled = round.ended(number, Some(&unreadable));
                return self.settle(settled);
            }
        };
        let sent = Sent { bytes, at: Some(SystemTime::now()) };
        let parts = self.parts(self.started, Some(sent), round, number);
        self.ended(round, number, &outcome, parts);
    }
}

struct Putting<'a> {
    bucket: &'a Bucket,
    archive: &'a Archive,
    state: &'a mut State,
}

impl Putting<'_> {
    /// What became of each step; `None` where it stood there already.
    async fn steps(&mut self, steps: &[Step]) -> Result<Vec<(usize, Option<Ended>)>> {
        let mut ended = Vec::new();
        for step in steps {
            self.state.refresh(self.bucket, &step.id).await?;
        }
        ended.extend(self.versions(steps).await?);
        for (at, step) in steps.iter().enumerate() {
            if let Want::Link(text) = &step.want {
                let text = String::from_utf8_lossy(text).into_owned();
                ended.push((at, self.link(steps, at, &text).await));
            }
        }
        Ok(ended)
    }

    /// Packs and uploads those package-versions that are not there, several at a time.
    async fn versions(&mut self, steps: &[Step]) -> Result<Vec<(usize, Option<Ended>)>> {
        let (mut ended, mut going) = (Vec::new(), JoinSet::new());
        for (at, step) in steps.iter().enumerate() {
            let Want::Version(stamp) = step.want else { continue };
            if self.stands(&step.id, stamp) {
                // What a tag asks for is needed.
                self.state.mark(&step.id, None);
                ended.push((at, None));
                continue;
            }
            if self.state.foreign().contains(&step.id) {
                ended.push((at, Some(Err(refused(self.bucket.foreign(&step.id))))));
                continue;
            }
            while going.len() >= self.bucket.uploads()
                && let Some(done) = going.join_next().await
            {
                let (at, put) = done.person("an upload panicked")?;
                ended.push((at, Some(self.was_put(&steps[at].id, put))));
            }
            let (bucket, source) = (self.bucket.clone(), self.source(&step.id));
            going.spawn(async move { (at, bucket.put(&source).await) });
        }
        while let Some(done) = going.join_next().await {
            let (at, put) = done.person("an upload panicked")?;
            ended.push((at, Some(self.was_put(&steps[at].id, put))));
        }
        Ok(ended)
    }

    fn stands(&self, id: &PackageVersion, stamp: Stamp) -> bool {
        self.state.get(id).is_some_and(|entry| entry.stamp == stamp.0 && entry.link.is_none())
    }

    fn source(&self, id: &PackageVersion) -> Source {
        let over = self.state.get(id).map(|entry| entry.etag.clone());
        Source { id: id.clone(), folder: self.archive.path(id), link: None, over }
    }

    fn was_put(&mut self, id: &PackageVersion, put: Result<Put, NotPut>) -> Ended {
        match put {
            Ok(put) => {
                let replaced = self.state.get(id).is_some();
                self.state.put(id.clone(), put.entry);
                Ok((replaced, put.bytes))
            }
            Err(NotPut::Unreadable(failure)) => Err(Failed::Unreadable(failure.into())),
            Err(NotPut::Refused(failure)) => Err(refused(failure)),
        }
    }

    /// The object of a link, made of what it leads to, which the step of the package-version put there.
    async fn link(&mut self, steps: &[Step], at: usize, text: &str) -> Option<Ended> {
        let id = &steps[at].id;
        let Some((of, stamp)) = leads_to(steps, at) else {
            return Some(Err(refused(Failure::later(anyhow::anyhow!(
                "{id} leads to nothing that is there"
            )))));
        };
        let there = self.state.get(id);
        if there.is_some_and(|entry| entry.link.as_deref() == Some(text) && entry.stamp == stamp.0) {
            self.state.mark(id, None);
            return None;
        }
        if self.state.foreign().contains(id) {
            return Some(Err(refused(self.bucket.foreign(id))));
        }
        let Some(from) = self.state.get(&of).cloned() else {
            let why =
                Refusal { mend: Mend::Later, reason: format!("{of}, which {id} leads to, is not there") };
            return Some(Err(Failed::Refused(why)));
        };
        let replaced = there.is_some();
        let source =
            Source { folder: self.archive.path(&of), link: Some(text.to_owned()), ..self.source(id) };
        Some(match self.bucket.copy_or_put(&from, &source).await {
            Ok((entry, bytes)) => {
                self.state.put(id.clone(), entry);
                Ok((replaced, bytes))
            }
            Err(failure) => Err(refused(failure)),
        })
    }
}

fn refused(failure: Failure) -> Failed {
    Failed::Refused(failure.into())
}

/// The package-version that a link of these steps leads to, and its stamp.
fn leads_to(steps: &[Step], at: usize) -> Option<(PackageVersion, Stamp)> {
    let mut step = &steps[at];
    for _ in 0..=steps.len() {
        match &step.want {
            Want::Version(stamp) => return Some((step.id.clone(), *stamp)),
            Want::Link(text) => {
                let next = blat_target::package::link_target(&step.id, text).ok()?;
                step = steps.iter().find(|other| other.id == next)?;
            }
        }
    }
    None
}
