//! All targets at one moment, for whoever asks how they stand: by what each runs, and what is wrong
//! with the files as people wrote them.

use std::collections::BTreeMap;
use std::path::Path;

use super::folder::Folder;
use super::in_force::{Reading, listed, settled};
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
        let accepted = Reading::of(Folder::accepted(root));
        let live = Reading::of(Folder::live(root)).or(&accepted);
        let mut in_force = settled(&live, &accepted).0;
        let targets = listed(&live, &accepted).map(|name| (name.clone(), in_force.remove(name))).collect();
        // What was accepted to the letter is good: nothing is judged anew where nothing was edited since.
        let edited =
            live.texts.targets != accepted.texts.targets || live.texts.defaults != accepted.texts.defaults;
        let problems = if edited { judge(&live, &accepted).problems } else { live.texts.strange.clone() };
        Self { targets, problems }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn nobody_is_told_of_targets_that_do_not_run_nor_of_none_where_they_cannot_be_listed() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, tags: &str| {
            let path = root.path().join("etc/blat").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("source = '/srv/a'\nssh.host = 'h'\ntags.directory = '{tags}'\n"))
                .unwrap();
        };
        put("targets/above.toml", "/srv/tags");
        put("targets/held.toml", "/srv/tags");
        put(".accepted/targets/held.toml", "/srv/tags");
        let known = || {
            let targets = Overview::read(root.path()).targets.into_iter();
            targets.map(|(name, settings)| (name.to_string(), settings.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(known(), [("above".into(), false), ("held".into(), true)]);
        fs::rename(root.path().join("etc/blat/targets"), root.path().join("unmounted")).unwrap();
        symlink("/nowhere", root.path().join("etc/blat/targets")).unwrap();
        assert_eq!(known(), [("held".into(), true)]);
    }
}
