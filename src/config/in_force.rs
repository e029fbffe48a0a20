//! All targets and what each runs by, in one reading: for the generator, which has milliseconds.
//!
//! A target is in force as long as its live file is there, or may be, whatever is in it: by its accepted copy,
//! or where there is none (nothing was accepted yet) by the live file, if that is good and no other target in
//! force has its tag directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind::PermissionDenied;
use std::path::{Path, PathBuf};

use super::folder::{Folder, Texts};
use super::layer::Document;
use super::name::TargetName;
use super::problem::{Problem, Problems};
use super::settings::Settings;

/// The settings of every target in force, and what is wrong with those that are not.
pub fn in_force(root: &Path) -> (Vec<Settings>, Vec<Problem>) {
    let (settings, problems) =
        settled(&Reading::of(Folder::live(root)), &Reading::of(Folder::accepted(root)));
    (settings.into_values().collect(), problems)
}

/// The same by target, of folders that were read.
pub(super) fn settled(live: &Reading, accepted: &Reading) -> (BTreeMap<TargetName, Settings>, Vec<Problem>) {
    let mut problems = live.texts.strange.clone();
    let (mut settings, mut taken) = (BTreeMap::new(), BTreeMap::new());
    let is_accepted = |name: &&TargetName| accepted.texts.targets.contains_key(*name);
    let (held, new): (Vec<_>, Vec<_>) = listed(live, accepted).partition(is_accepted);
    for name in held.into_iter().chain(new) {
        let not_yet = || {
            let found = live.merged(name)?.and_then(|found| placed(found, &taken, false));
            Some(found.map(|(found, _)| found))
        };
        match accepted.settings(name).or_else(not_yet) {
            Some(Ok(found)) => {
                taken.insert(found.tags.directory.clone(), name.clone());
                settings.insert(name.clone(), found);
            }
            Some(Err(Problems(found))) => problems.extend(found),
            None => {}
        }
    }
    // Broken defaults are told once, not once for each target.
    problems.dedup();
    (settings, problems)
}

/// The names of all targets. Where they cannot be listed, those that were accepted are there still.
pub(super) fn listed<'a>(live: &'a Reading, accepted: &'a Reading) -> impl Iterator<Item = &'a TargetName> {
    if live.is_listed() { live.texts.targets.keys() } else { accepted.texts.targets.keys() }
}

/// Refuses a tag directory that another target has: each would take the other's tags. Of a target that does not run
/// by it yet (`stays`), also one in another's or around it, for then one is the other's tag, and one in which blat
/// has its own files.
pub(super) fn placed(
    (settings, document): (Settings, Document),
    taken: &BTreeMap<PathBuf, TargetName>,
    stays: bool,
) -> Result<(Settings, String), Problems> {
    let key = "tags.directory";
    let Some((what, mend)) = misplaced(&settings.tags.directory, taken, stays) else {
        return Ok((settings, document.text));
    };
    let problem = Problem::of_file(&document.file, what);
    Err(problem.about(key).at(document.place_of(key)).mend(mend).into())
}

/// What is wrong with a tag directory, and what mends it.
fn misplaced(
    directory: &Path,
    taken: &BTreeMap<PathBuf, TargetName>,
    stays: bool,
) -> Option<(String, &'static str)> {
    let mend = "give each target its own";
    if let Some(owner) = taken.get(directory) {
        return Some((format!("target `{owner}` has the same tag directory"), mend));
    }
    if stays {
        return None;
    }
    let within = taken.range(directory.to_owned()..).next().filter(|(path, _)| path.starts_with(directory));
    if let Some((_, owner)) = within {
        return Some((format!("the tag directory of target `{owner}` lies in this one"), mend));
    }
    if let Some(owner) = directory.ancestors().find_map(|path| taken.get(path)) {
        return Some((format!("this lies in the tag directory of target `{owner}`"), mend));
    }
    let (state, tags) = (Path::new("/var/lib/blat"), Path::new("/var/lib/blat/tags"));
    let overlap = directory.starts_with(state) || state.starts_with(directory);
    let mend = "leave the key out, or name a folder elsewhere";
    (overlap && directory.parent() != Some(tags))
        .then(|| ("blat has its own files in /var/lib/blat".into(), mend))
}

/// A folder as it was read at one moment, its defaults parsed once.
pub(super) struct Reading {
    pub(super) folder: Folder,
    pub(super) texts: Texts,
    pub(super) defaults: Result<Option<Document>, Problem>,
}

impl Reading {
    pub(super) fn of(folder: Folder) -> Self {
        let texts = folder.read_all();
        let shown = folder.shown(&folder.defaults());
        let parse = |text: Result<String, Problem>| Document::defaults(&shown, text?);
        let defaults = texts.defaults.clone().map(parse).transpose();
        Self { folder, texts, defaults }
    }

    /// What this user may not read counts as what was `accepted` of it, for root has judged it.
    pub(super) fn or(mut self, accepted: &Self) -> Self {
        let is_denied = |path: &Path| File::open(path).is_err_and(|why| why.kind() == PermissionDenied);
        for (name, text) in &mut self.texts.targets {
            if text.is_err()
                && let Some(known) = accepted.texts.targets.get(name)
                && is_denied(&self.folder.target(name))
            {
                *text = known.clone();
            }
        }
        if self.defaults.is_err() && accepted.texts.defaults.is_some() && is_denied(&self.folder.defaults()) {
            self.texts.defaults = accepted.texts.defaults.clone();
            self.defaults = accepted.defaults.clone();
        }
        self
    }

    /// Whether its targets are known. A folder that cannot be listed tells nothing of what was removed.
    pub(super) fn is_listed(&self) -> bool {
        let folder = self.folder.shown(&self.folder.targets());
        !self.texts.strange.iter().any(|problem| problem.file == folder)
    }

    /// A target's file by itself, if there is one.
    pub(super) fn target(&self, name: &TargetName) -> Option<Result<Document, Problem>> {
        let text = self.texts.targets.get(name)?.clone();
        let shown = self.folder.shown(&self.folder.target(name));
        Some(text.and_then(|text| Document::parse(&shown, text)))
    }

    /// A target's settings by this folder alone, if it has a file there.
    pub(super) fn settings(&self, name: &TargetName) -> Option<Result<Settings, Problems>> {
        Some(self.merged(name)?.map(|(settings, _)| settings))
    }

    /// The same, and the file.
    fn merged(&self, name: &TargetName) -> Option<Result<(Settings, Document), Problems>> {
        let merge = |document: Result<Document, Problem>| {
            let defaults = self.defaults.as_ref().map_err(Clone::clone)?;
            let document = document?;
            Ok((Settings::merge(name, &document, defaults.as_ref())?, document))
        };
        self.target(name).map(merge)
    }
}
