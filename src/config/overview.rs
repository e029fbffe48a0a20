//! All targets at one moment, for whoever asks how they stand: by what each runs, and what is wrong
//! with the files as people wrote them.

use std::collections::BTreeMap;
use std::path::Path;

use super::folder::Folder;
use super::in_force::Reading;
use super::name::TargetName;
use super::problem::Problem;
use super::settings::Settings;
use super::verdict::judge;

/// Every target that has a file.
#[derive(Debug)]
pub struct Overview {
    /// `None`: nothing good was ever there.
    pub targets: BTreeMap<TargetName, Option<Settings>>,
    pub problems: Vec<Problem>,
}

impl Overview {
    /// Reads both folders.
    pub fn read(root: &Path) -> Self {
        let (live, accepted) = (Reading::of(Folder::live(root)), Reading::of(Folder::accepted(root)));
        let settings = |name: &TargetName| {
            let found = accepted.settings(name).or_else(|| live.settings(name));
            (name.clone(), found.and_then(Result::ok))
        };
        let targets = live.texts.targets.keys().map(settings).collect();
        // What was accepted to the letter is good: nothing is judged anew where nothing was edited since.
        let edited =
            live.texts.targets != accepted.texts.targets || live.texts.defaults != accepted.texts.defaults;
        let problems = if edited { judge(&live, &accepted).problems } else { live.texts.strange.clone() };
        Self { targets, problems }
    }
}
