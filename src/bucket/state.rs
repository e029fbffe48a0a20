//! What a bucket has: its index, held against one listing. Where both agree, nothing else is asked;
//! objects of which they tell differently are looked at one by one, and so the index is made anew
//! where it is lost, stale, or cannot be read.
//!
//! The index is written on the condition that it still is the one that was read. If another run or master
//! wrote it meanwhile, what was done here is put into that one's, and nothing of it is lost. The listing
//! begins when the index was read: what another put and told of before, the index has; what it tells of later
//! changes the index, which is noticed.

use std::collections::{BTreeMap, HashSet};

use anyhow::anyhow;
use blat_target::package::PackageVersion;
use tokio::task::JoinSet;

use super::error::{Operation, Refused};
use super::index::{self, BadIndex, Entries};
use super::names::{self, Meta};
use super::objects::{Listed, Looked, bare};
use super::{Bucket, Entry};
use crate::failure::{Failure, Needs, Result};

/// How many objects are looked at at a time.
const LOOKS: usize = 16;
/// How often the index is tried to be written that others write, too.
const TRIES: usize = 8;

/// What a bucket has.
#[derive(Debug)]
pub struct State {
    entries: Entries,
    /// In the place of a package-version, and not ours.
    foreign: HashSet<PackageVersion>,
    /// The ETag of the index that was read.
    index: Option<String>,
    /// What has to be written.
    changes: BTreeMap<PackageVersion, Change>,
    /// Whether there is an index that can be read.
    is_indexed: bool,
}

/// What became of an entry.
#[derive(Debug)]
enum Change {
    /// It is this now.
    To(Entry),
    /// It goes, as long as it is still this, where it was known.
    Gone(Option<Entry>),
    /// It is this again, unless another knows better.
    Back(Entry),
}

struct Index {
    etag: Option<String>,
    entries: Option<Entries>,
}

impl State {
    /// Reads what the bucket has.
    pub async fn read(bucket: &Bucket) -> Result<Self> {
        let index = read_index(bucket).await?;
        let listed = bucket.list().await?;
        let is_indexed = index.entries.is_some();
        let mut state = Self {
            entries: Entries::new(),
            foreign: HashSet::new(),
            index: index.etag,
            changes: BTreeMap::new(),
            is_indexed,
        };
        let unknown = state.take(bucket, index.entries.unwrap_or_default(), listed);
        if !unknown.is_empty() {
            tracing::info!("{} objects are looked at, for the index does not know them", unknown.len());
        }
        state.look_at(bucket, unknown).await?;
        Ok(state)
    }

    /// What the index says, without a look at the rest: for single packages. Where there is no index that
    /// can be read, all is looked at, for the new one is of all objects.
    pub async fn of_index(bucket: &Bucket) -> Result<Self> {
        let index = read_index(bucket).await?;
        let Some(entries) = index.entries else { return Self::read(bucket).await };
        Ok(Self {
            is_indexed: true,
            entries,
            foreign: HashSet::new(),
            index: index.etag,
            changes: BTreeMap::new(),
        })
    }

    /// A bucket that has these, for tests.
    #[cfg(test)]
    pub(crate) fn of_entries(entries: Entries) -> Self {
        let (foreign, changes) = (HashSet::new(), BTreeMap::new());
        Self { entries, foreign, index: None, changes, is_indexed: true }
    }

    /// Keeps the entries that the listing confirms. Returns the objects of which it knows nothing.
    fn take(&mut self, bucket: &Bucket, mut indexed: Entries, listed: Vec<Listed>) -> Vec<PackageVersion> {
        let mut unknown = Vec::new();
        for object in listed {
            let Some(id) = names::id_of(bucket.prefix(), &object.key) else { continue };
            match indexed.remove(&id) {
                Some(entry) if entry.etag == object.etag && entry.size == object.size => {
                    self.entries.insert(id, entry);
                }
                // Unless it is found to be ours, the index does not name it any more.
                Some(stale) => {
                    self.changes.insert(id.clone(), Change::Gone(Some(stale)));
                    unknown.push(id);
                }
                None => unknown.push(id),
            }
        }
        self.changes.extend(indexed.into_iter().map(|(id, gone)| (id, Change::Gone(Some(gone)))));
        unknown
    }

    async fn look_at(&mut self, bucket: &Bucket, unknown: Vec<PackageVersion>) -> Result<()> {
        let (mut looks, mut unknown) = (JoinSet::new(), unknown.into_iter());
        loop {
            while looks.len() < LOOKS
                && let Some(id) = unknown.next()
            {
                looks.spawn(look(bucket.clone(), id));
            }
            let Some(looked) = looks.join_next().await else { return Ok(()) };
            match looked.person("looking panicked")?? {
                (id, Seen::Ours(entry)) => self.put(id, *entry),
                (id, Seen::Foreign) => drop(self.foreign.insert(id)),
                (id, Seen::Nothing) => drop(self.changes.insert(id, Change::Gone(None))),
            }
        }
    }

    /// Asks for the object of one package-version what it is now, whatever the index says.
    pub async fn refresh(&mut self, bucket: &Bucket, id: &PackageVersion) -> Result<()> {
        let found = bucket.look(id).await?;
        let known = self.entries.get(id).zip(found.as_ref());
        if known.is_some_and(|(entry, found)| entry.etag == found.etag) {
            return Ok(());
        }
        match seen(bucket, id, found).await? {
            Seen::Ours(entry) => self.put(id.clone(), *entry),
            seen => {
                if matches!(seen, Seen::Foreign) {
                    self.foreign.insert(id.clone());
                }
                if self.entries.contains_key(id) {
                    self.remove(id);
                }
            }
        }
        Ok(())
    }

    /// All objects of ours.
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    pub fn get(&self, id: &PackageVersion) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// Objects in the places of package-versions that are not ours.
    pub fn foreign(&self) -> &HashSet<PackageVersion> {
        &self.foreign
    }

    /// An object was put, or changed.
    pub fn put(&mut self, id: PackageVersion, entry: Entry) {
        self.changes.insert(id.clone(), Change::To(entry.clone()));
        self.entries.insert(id, entry);
    }

    /// Something is in excess since then, or (`None`) is needed.
    pub fn mark(&mut self, id: &PackageVersion, since: Option<i64>) {
        if let Some(entry) = self.get(id).filter(|entry| entry.excess_since != since).cloned() {
            self.put(id.clone(), Entry { excess_since: since, ..entry });
        }
    }

    /// An object is gone, or goes.
    pub fn remove(&mut self, id: &PackageVersion) {
        let known = self.entries.remove(id);
        self.changes.insert(id.clone(), Change::Gone(known));
    }

    /// An object that the index names no more is gone: it does not name it as long as it stays that.
    pub fn gone(&mut self, id: PackageVersion, entry: Entry) {
        self.changes.insert(id, Change::Gone(Some(entry)));
    }

    /// Takes in what another wrote into the index meanwhile.
    pub async fn catch_up(&mut self, bucket: &Bucket) -> Result<()> {
        match bucket.index_etag().await? {
            etag if etag == self.index => Ok(()),
            _ => self.merge(bucket).await,
        }
    }

    /// What was removed stands there all the same.
    pub fn put_back(&mut self, id: PackageVersion, entry: Entry) {
        self.changes.insert(id.clone(), Change::Back(entry.clone()));
        self.entries.insert(id, entry);
    }

    /// Writes the index, if it does not say all this already. What another changed meanwhile of what was
    /// removed here, is here again.
    pub async fn write(&mut self, bucket: &Bucket) -> Result<()> {
        if self.is_indexed && self.changes.is_empty() {
            return Ok(());
        }
        for _ in 0..TRIES {
            match bucket.put_index(index::write(&self.entries), self.index.as_deref()).await {
                Ok(etag) => {
                    (self.index, self.is_indexed) = (Some(etag), true);
                    self.changes.clear();
                    return Ok(());
                }
                Err(Refused::Changed | Refused::Missing) => self.merge(bucket).await?,
                Err(refused) => {
                    let key = names::index_key(bucket.prefix());
                    return Err(refused.failure(bucket, Operation::Put, &key));
                }
            }
        }
        Err(Failure::later(anyhow!(
            "the index of the bucket {} was changed by others each time it was to be written",
            bucket.name()
        )))
    }

    /// Somebody else wrote the index: what was done here goes into that one.
    async fn merge(&mut self, bucket: &Bucket) -> Result<()> {
        tracing::info!("the index of the bucket {} was written by another meanwhile", bucket.name());
        let theirs = read_index(bucket).await?;
        self.index = theirs.etag;
        let Some(entries) = theirs.entries else { return Ok(()) };
        self.entries = entries;
        self.apply();
        Ok(())
    }

    /// Puts the changes into the entries.
    fn apply(&mut self) {
        for (id, change) in &self.changes {
            match change {
                Change::To(entry) => drop(self.entries.insert(id.clone(), entry.clone())),
                Change::Gone(Some(known)) if self.entries.get(id).is_some_and(|entry| entry != known) => {}
                Change::Gone(_) => drop(self.entries.remove(id)),
                Change::Back(entry) => drop(self.entries.entry(id.clone()).or_insert(entry.clone())),
            }
        }
    }
}

async fn read_index(bucket: &Bucket) -> Result<Index> {
    let key = names::index_key(bucket.prefix());
    let Some(found) = bucket.get(&key).await? else {
        return Ok(Index { etag: None, entries: None });
    };
    let etag = Some(bare(found.e_tag()));
    let text = bucket
        .answer(found.body.collect())
        .await
        .later(format!("cannot read {key} in the bucket {}", bucket.name()))?;
    match index::read(&text.into_bytes()) {
        Ok(entries) => Ok(Index { etag, entries: Some(entries) }),
        Err(why @ BadIndex::Format(_)) => Err(Failure::person(anyhow!(
            "cannot use {key} in the bucket {}: {why}; update blat here",
            bucket.name()
        ))),
        Err(why) => {
            tracing::warn!("{key} in the bucket {} is made anew: {why}", bucket.name());
            Ok(Index { etag, entries: None })
        }
    }
}

enum Seen {
    Ours(Box<Entry>),
    Foreign,
    Nothing,
}

async fn look(bucket: Bucket, id: PackageVersion) -> Result<(PackageVersion, Seen)> {
    let found = bucket.look(&id).await?;
    let seen = seen(&bucket, &id, found).await?;
    Ok((id, seen))
}

async fn seen(bucket: &Bucket, id: &PackageVersion, found: Option<Looked>) -> Result<Seen> {
    let Some(Looked { size, etag, meta }) = found else { return Ok(Seen::Nothing) };
    let Some(Meta { stamp, sha256, link }) = meta else { return Ok(Seen::Foreign) };
    let key = names::key(bucket.prefix(), id);
    let sha256 = match sha256 {
        Some(digest) => digest,
        // It was sent in parts, and its digest known when the first had gone.
        None => bucket.digest(&key).await?,
    };
    let (package, version) = (id.package.to_string(), id.version.to_string());
    let entry = Entry { package, version, stamp: stamp.0, size, sha256, key, etag, link, excess_since: None };
    Ok(Seen::Ours(Box::new(entry)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(version: &str) -> PackageVersion {
        PackageVersion::new("core", version).unwrap()
    }

    fn entry(version: &str, excess_since: Option<i64>) -> (PackageVersion, Entry) {
        let (package, version, key) = ("core".to_owned(), version.to_owned(), version.to_owned());
        let (sha256, etag) = (String::new(), String::new());
        let entry =
            Entry { package, version, stamp: 1, size: 1, sha256, key, etag, link: None, excess_since };
        (id(&entry.version), entry)
    }

    #[test]
    fn what_another_changed_meanwhile_is_neither_taken_out_nor_put_back() {
        let marked = || Entries::from([entry("1", Some(5)), entry("2", Some(5))]);
        let mut state = State::of_entries(marked());
        ["1", "2"].iter().for_each(|version| state.remove(&id(version)));
        // A tag took the mark of one away.
        let theirs = Entries::from([entry("1", None), entry("2", Some(5))]);
        state.entries.clone_from(&theirs);
        state.apply();
        assert_eq!(state.entries, [entry("1", None)].into());
        marked().into_iter().for_each(|(id, entry)| state.put_back(id, entry));
        state.entries = [entry("1", None)].into();
        state.apply();
        assert_eq!(state.entries, theirs);
    }
}
