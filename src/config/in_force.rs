//! All targets and what each runs by, in one reading: for the generator, which has milliseconds.
//!
//! A target is in force as long as its live file is there, whatever is in it: by its accepted copy,
//! or where there is none (nothing was accepted yet) by the live file, if that is good.

use std::path::Path;

use super::folder::{Folder, Texts};
use super::layer::Document;
use super::name::TargetName;
use super::problem::{Problem, Problems};
use super::settings::Settings;

/// The settings of every target in force, and what is wrong with those that are not.
pub fn in_force(root: &Path) -> (Vec<Settings>, Vec<Problem>) {
    let (live, accepted) = (Reading::of(Folder::live(root)), Reading::of(Folder::accepted(root)));
    let mut problems = live.texts.strange.clone();
    let mut settings = Vec::new();
    for name in live.texts.targets.keys() {
        match accepted.settings(name).or_else(|| live.settings(name)) {
            Some(Ok(found)) => settings.push(found),
            Some(Err(Problems(found))) => problems.extend(found),
            None => {}
        }
    }
    // Broken defaults are told once, not once for each target.
    problems.dedup();
    (settings, problems)
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

    /// A target's file by itself, if there is one.
    pub(super) fn target(&self, name: &TargetName) -> Option<Result<Document, Problem>> {
        let text = self.texts.targets.get(name)?.clone();
        let shown = self.folder.shown(&self.folder.target(name));
        Some(text.and_then(|text| Document::parse(&shown, text)))
    }

    /// A target's settings by this folder alone, if it has a file there.
    pub(super) fn settings(&self, name: &TargetName) -> Option<Result<Settings, Problems>> {
        let merge = |document: Result<Document, Problem>| {
            let defaults = self.defaults.as_ref().map_err(Clone::clone)?;
            Settings::merge(name, &document?, defaults.as_ref())
        };
        self.target(name).map(merge)
    }
}
