//! `blat explain`: why a package-version is, or is not, on a target.
//!
//! It tells what the last synchronisation found and decided, looks at the source archive and the queue
//! as they are now, and asks the journal when a package-version was sent.

mod words;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::anyhow;
use blat_target::listing::{Listing, Stands};
use blat_target::package::{Name, PackageVersion};
use serde::Serialize;

use crate::archive::{Archive, Found};
use crate::config::{Overview, Settings, TargetName};
use crate::failure::{Failure, Needs, Result};
use crate::history::{self, Commit};
use crate::look::Look;
use crate::places::Places;
use crate::state::{self, Excess, Missing, Seconds, SyncEnd, Syncs, Transfers, Wanted, WantedBy, seconds};
use crate::sync::known;
use crate::tags::{Claim, Glance, Tag};

pub use words::{json, left_out, lines, text};

/// How many versions of a package are explained for each target.
const VERSIONS_MAX: usize = 200;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub package: &'a str,
    /// One version; else all that are known.
    pub version: Option<&'a str>,
    /// One target; else all.
    pub target: Option<&'a TargetName>,
}

/// What was explained.
#[derive(Debug, Default)]
pub struct Explanation {
    pub all: Vec<Explained>,
    /// For how many versions there was no room; those that are asked for, missing or tagged come first.
    pub left_out: usize,
}

/// A package-version and a target.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    pub target: String,
    pub id: PackageVersion,
    /// In a few words.
    pub summary: &'static str,
    /// Who asks for it, as of the last synchronisation.
    pub wanted_by: Vec<WantedBy>,
    pub here: Place,
    /// As of the last synchronisation.
    pub there: Place,
    /// When the last synchronisation asked.
    pub as_of: Option<Seconds>,
    /// Releases that the settings name and that are closed.
    pub closed: Vec<String>,
    pub tag: Option<TagState>,
    /// What becomes of it, where it is in excess.
    pub excess: Option<Excess>,
    /// Since when, and why, it is missing.
    pub missing: Option<(Seconds, String)>,
    pub sent: Option<Sent>,
    /// Why the last synchronisation, or transfer, failed.
    pub troubles: Vec<String>,
}

/// What stands in a package-version's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    Nothing(String),
    Version { stamp: i64, writable: bool },
    Link(String),
    Other(String),
}

impl Place {
    /// Whether this may be what was sent then: a later build is not.
    fn stood_at(&self, then: Seconds) -> bool {
        match self {
            Self::Version { stamp, .. } => i64::try_from(then).is_ok_and(|then| *stamp <= then),
            Self::Link(_) => true,
            Self::Nothing(_) | Self::Other(_) => false,
        }
    }
}

/// A tag for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TagState {
    Dropped,
    Queued { since: Seconds, reason: Option<String>, due: Option<Seconds> },
    Rejected { at: String, reason: String },
}

/// When it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sent {
    pub at: Seconds,
    pub cause: String,
}

/// Explains.
///
/// # Errors
/// When there is no such target, the name can be no package's, or the state of a target cannot be read.
pub fn explain(root: &Path, asked: &Asked<'_>) -> Result<Explanation> {
    asked.package.parse::<Name>().person(format!("{:?} cannot be a package", asked.package))?;
    let overview = Overview::read(root);
    if let Some(name) = asked.target.filter(|name| !overview.targets.contains_key(*name)) {
        return Err(Failure::person(anyhow!("there is no target `{name}`")));
    }
    let commits = history::commits(asked.package);
    let mut explanation = Explanation::default();
    let chosen = overview.targets.values().flatten();
    let chosen = chosen.filter(|settings| asked.target.is_none_or(|only| *only == settings.name));
    let looks: Vec<_> = chosen.map(|settings| Looks::begin(root, settings, asked.package)).collect();
    for looks in looks {
        if let Some(why) = state::unreadable(&looks.places.state) {
            return Err(Failure::person(anyhow!(why)));
        }
        Known::of(looks, asked.package, &commits).explain(asked, &mut explanation)?;
    }
    Ok(explanation)
}

/// What is looked at now, on disks whose file servers may be gone.
struct Looks<'a> {
    settings: &'a Settings,
    places: Places,
    tags: Look<Glance>,
    /// The names of the versions that the source archive has.
    here: Look<Vec<OsString>>,
}

impl<'a> Looks<'a> {
    fn begin(root: &Path, settings: &'a Settings, package: &str) -> Self {
        let places = Places::of(root, &settings.name);
        let tags = Glance::begin(&settings.tags.directory, &places.state);
        let folder = settings.source.join(package);
        let here = Look::begin(&settings.source, move || match fs::read_dir(folder) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            items => items?.map(|item| Ok(item?.file_name())).collect(),
        });
        Self { settings, places, tags, here }
    }
}

/// What is known of a package on a target.
struct Known<'a> {
    settings: &'a Settings,
    places: Places,
    package: &'a str,
    head: Option<Wanted>,
    wanted: state::Asks,
    listing: Listing,
    glance: io::Result<Glance>,
    here: io::Result<Vec<OsString>>,
    excess: Vec<Excess>,
    missing: Missing,
    transfers: Transfers,
    syncs: Syncs,
    commits: &'a [Commit],
}

impl<'a> Known<'a> {
    fn of(looks: Looks<'a>, package: &'a str, commits: &'a [Commit]) -> Self {
        let Looks { settings, places, tags, here } = looks;
        let wanted = Wanted::of(&places.wanted(), package);
        let (head, wanted) = wanted.map_or((None, Vec::new()), |(head, wanted)| (Some(head), wanted));
        Self {
            settings,
            package,
            commits,
            head,
            wanted,
            listing: known::read(&places.listing()),
            glance: tags.end(),
            here: here.end(),
            excess: state::read(&places.excess()).unwrap_or_default(),
            missing: state::read(&places.missing()).unwrap_or_default(),
            transfers: state::read(&places.transfers()).unwrap_or_default(),
            syncs: state::read(&places.syncs()).unwrap_or_default(),
            places,
        }
    }

    fn explain(&self, asked: &Asked<'_>, to: &mut Explanation) -> Result<()> {
        let ids = match asked.version {
            Some(version) => {
                let id = PackageVersion::new(self.package, version);
                vec![id.person("that cannot be a package-version")?]
            }
            None => self.versions(),
        };
        to.left_out += ids.len().saturating_sub(VERSIONS_MAX);
        to.all.extend(ids.into_iter().take(VERSIONS_MAX).map(|id| self.one(id)));
        Ok(())
    }

    /// All versions of the package: those that are asked for, missing or tagged, then those that are just there or
    /// here.
    fn versions(&self) -> Vec<PackageVersion> {
        let of = |version: &str| PackageVersion::new(self.package, version).ok();
        let is_of = |id: &PackageVersion| id.package.as_str() == self.package;
        let wanted = self.wanted.iter().map(|(id, _)| id.clone());
        let there = self.listing.iter().filter(|entry| entry.package == self.package);
        let there = there.filter_map(|entry| of(entry.version));
        let here = self.here.iter().flatten().filter_map(|name| of(name.to_str()?));
        let missing = self.missing.items.iter().map(|item| item.id.clone());
        let asked: BTreeSet<_> = wanted.chain(missing.chain(self.tagged()).filter(is_of)).collect();
        let others: BTreeSet<_> = there.chain(here).filter(|id| !asked.contains(id)).collect();
        asked.into_iter().chain(others).collect()
    }

    fn one(&self, id: PackageVersion) -> Explained {
        let wanted_by = self.wanted.iter().find(|(known, _)| *known == id).map(|(_, by)| by.clone());
        let mut found = Explained {
            target: self.settings.name.to_string(),
            summary: "",
            wanted_by: wanted_by.unwrap_or_default(),
            here: self.here(&id),
            there: self.there(&id),
            as_of: self.head.as_ref().map(|head| head.at),
            closed: self.head.as_ref().map(|head| head.closed.clone()).unwrap_or_default(),
            tag: self.tag(&id),
            excess: self.excess.iter().find(|excess| excess.id == id).cloned(),
            missing: None,
            sent: self.sent(&id),
            troubles: self.troubles(),
            id,
        };
        // What was sent since the target was last asked is there, though the listing does not have it.
        let asked = self.syncs.ended.as_ref().map_or(0, SyncEnd::began);
        if let (Some(sent), false) = (&found.sent, found.here == found.there)
            && sent.at >= asked
            && found.here.stood_at(sent.at)
        {
            found.there = found.here.clone();
        } else {
            let missing = self.missing.items.iter().find(|item| item.id == found.id);
            found.missing = missing.map(|item| (item.since, item.reason.clone()));
        }
        found.summary = words::summary(&found);
        found
    }

    /// What tags ask for, or asked for in vain.
    fn tagged(&self) -> Vec<PackageVersion> {
        let fresh = self.glance.iter().flat_map(|glance| glance.fresh.clone());
        let rejected = fs::read_dir(self.places.state.join("rejected")).into_iter().flatten().flatten();
        let names = fresh.chain(rejected.map(|item| item.file_name()));
        let claims = self.claims().iter().filter_map(|claim| claim.tag.as_ref().ok());
        names.filter_map(|name| Tag::of_file(&name).ok()).chain(claims.cloned()).map(|tag| tag.0).collect()
    }

    /// Tags that were taken up and are not done.
    fn claims(&self) -> &[Claim] {
        self.glance.as_ref().map_or(&[], |glance| &glance.claims)
    }

    fn here(&self, id: &PackageVersion) -> Place {
        if let Err(why) = &self.here {
            return Place::Other(format!("the source archive cannot be read: {why}"));
        }
        let found = Archive::open(&self.settings.source).and_then(|archive| archive.look(id));
        match found {
            Ok(Found::Version { stamp, writable_since }) => {
                Place::Version { stamp: stamp.0, writable: writable_since.is_some() }
            }
            Ok(Found::Link(text)) => Place::Link(String::from_utf8_lossy(&text).into_owned()),
            Ok(Found::Absent(why)) => Place::Nothing(why.to_owned()),
            Ok(Found::Strange(why)) => Place::Other(why.to_owned()),
            Err(why) => Place::Other(format!("the source archive cannot be read: {why}")),
        }
    }

    fn there(&self, id: &PackageVersion) -> Place {
        match self.listing.get(id.package.as_str(), id.version.as_str()) {
            Some(Stands::Version(stamp)) => Place::Version { stamp: stamp.0, writable: false },
            Some(Stands::Link(text)) => Place::Link(String::from_utf8_lossy(text).into_owned()),
            Some(Stands::Other) => Place::Other("something that is no package-version".into()),
            None if self.syncs.ended.is_none() => {
                Place::Nothing("it was never asked for its content: no synchronisation yet".into())
            }
            None => Place::Nothing("the target does not have it".into()),
        }
    }

    fn tag(&self, id: &PackageVersion) -> Option<TagState> {
        let name = Tag(id.clone()).to_string();
        let is_for = |claim: &&Claim| claim.tag.as_ref().is_ok_and(|tag| tag.0 == *id);
        let glance = self.glance.as_ref().ok();
        if glance.is_some_and(|glance| glance.fresh.iter().any(|fresh| *fresh == *name)) {
            return Some(TagState::Dropped);
        }
        if let Some(claim) = self.claims().iter().find(is_for) {
            let waiting = glance.and_then(|glance| glance.waiting(claim));
            return Some(TagState::Queued {
                since: seconds(claim.since),
                reason: waiting.map(|waiting| waiting.reason.clone()),
                due: waiting.map(|waiting| waiting.due),
            });
        }
        let record = fs::read_to_string(self.places.state.join("rejected").join(&name)).ok()?;
        let (at, reason) = record.split_once('\n')?;
        Some(TagState::Rejected { at: at.to_owned(), reason: reason.trim_end().to_owned() })
    }

    fn sent(&self, id: &PackageVersion) -> Option<Sent> {
        let is_this = |commit: &&Commit| {
            commit.target == self.settings.name.as_str() && commit.version == id.version.as_str()
        };
        let journal = self.commits.iter().find(is_this);
        let journal = journal.map(|commit| Sent { at: commit.at, cause: commit.cause.clone() });
        let noted = self.transfers.sent_at(id).map(|at| Sent { at, cause: "tag".into() });
        journal.into_iter().chain(noted).max_by_key(|sent| sent.at)
    }

    fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        if let Err(why) = &self.glance {
            let directory = self.settings.tags.directory.display();
            troubles.push(format!("the tags in {directory} cannot be looked at: {why}"));
        }
        let mut trouble = |what: &str, failed: Option<&state::Failed>| {
            if let Some(failed) = failed {
                troubles.push(format!("the last {what} failed: {}", failed.reason));
            }
        };
        trouble("synchronisation", self.syncs.failed.as_ref());
        trouble("transfer", self.transfers.failed.as_ref());
        if !self.settings.enabled {
            troubles.push("the target is disabled (`enabled = false`): nothing is sent to it".into());
            return troubles;
        }
        let agent: Option<state::Agent> = state::read(&self.places.agent());
        let runs = crate::lock::is_held(&self.places.agent_lock());
        match agent.filter(|_| runs) {
            None => {
                troubles.push(format!("the agent does not run: systemctl start blat@{}", self.settings.name))
            }
            Some(agent) => {
                if let Some(reason) = agent.line.reason {
                    troubles.push(format!("the target is not connected: {reason}"));
                }
            }
        }
        troubles
    }
}
