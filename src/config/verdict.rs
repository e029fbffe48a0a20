//! What is accepted: made from the live files and the accepted copies, before anything is written.
//!
//! A file with a fault changes nothing: what was accepted before stays. A target is judged merged
//! with the defaults. Defaults that would leave a target without settings which it has are refused,
//! so that one slip in one file never takes a running target down.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::in_force::{Reading, placed};
use super::layer::Document;
use super::name::TargetName;
use super::problem::{Problem, Problems};
use super::settings::Settings;

/// What the accepted folder is to hold, and what is wrong with the rest.
pub(super) struct Verdict {
    /// The text of the accepted `blat.toml`, if there is to be one; nothing where none can be judged by, and what
    /// was accepted stays.
    pub(super) defaults: Option<Option<String>>,
    /// Every target that has a live file.
    pub(super) targets: BTreeMap<TargetName, Judged>,
    /// Targets with an accepted copy whose live file is gone.
    pub(super) removed: BTreeSet<TargetName>,
    pub(super) problems: Vec<Problem>,
}

/// One target.
pub(super) struct Judged {
    /// By what it ran until now.
    pub(super) before: Option<Settings>,
    /// By what it is to run, and the text that says so. `None`: nothing good was ever there.
    pub(super) after: Option<(Settings, String)>,
}

impl Judged {
    /// By what it is to run.
    pub(super) fn settings(&self) -> Option<&Settings> {
        self.after.as_ref().map(|(settings, _)| settings)
    }

    /// Whether it is to run, and was not.
    pub(super) fn starts(&self) -> bool {
        let enabled = |settings: Option<&Settings>| settings.is_some_and(|settings| settings.enabled);
        !enabled(self.before.as_ref()) && enabled(self.settings())
    }

    /// Whether it is to run by other settings than before.
    pub(super) fn changed(&self) -> bool {
        self.before.as_ref() != self.settings()
    }
}

/// Judges the live folder.
pub(super) fn judge(live: &Reading, accepted: &Reading) -> Verdict {
    let mut problems = live.texts.strange.clone();
    let mut chosen = choose_defaults(live, accepted, &mut problems);
    let mut told = Vec::new();
    let mut targets = judged_by(chosen, live, accepted, &mut told);
    let lost = targets.iter().find(|(_, judged)| judged.before.is_some() && judged.after.is_none());
    if let Some((name, _)) = lost
        && live.texts.defaults != accepted.texts.defaults
        && chosen.is_some_and(|reading| std::ptr::eq(reading, live))
        && accepted.defaults.is_ok()
    {
        let file = live.folder.shown(&live.folder.defaults());
        let of_it = |problem: &&Problem| problem.target().as_ref() == Some(name);
        let why = told.iter().find(of_it).map(ToString::to_string).unwrap_or_default();
        told = vec![Problem::of_file(&file, format!("target `{name}` could not run by this: {why}"))];
        chosen = Some(accepted);
        targets = judged_by(chosen, live, accepted, &mut told);
    }
    problems.extend(told);
    let gone = accepted
        .texts
        .targets
        .keys()
        .filter(|name| live.is_listed() && !live.texts.targets.contains_key(*name));
    let defaults = chosen.map(|reading| reading.texts.defaults.clone()?.ok());
    Verdict { defaults, targets, removed: gone.cloned().collect(), problems }
}

/// All targets, by the defaults of the folder that was chosen.
fn judged_by(
    chosen: Option<&Reading>,
    live: &Reading,
    accepted: &Reading,
    problems: &mut Vec<Problem>,
) -> BTreeMap<TargetName, Judged> {
    let names: BTreeSet<TargetName> = live.texts.targets.keys().cloned().collect();
    if let Some(Ok(defaults)) = chosen.map(|reading| reading.defaults.as_ref()) {
        return Judging { live, accepted, defaults: defaults.as_ref() }.all(&names, problems);
    }
    let before = |name: &TargetName| accepted.settings(name).and_then(Result::ok);
    names.iter().map(|name| (name.clone(), Judged { before: before(name), after: None })).collect()
}

/// The folder whose defaults hold: the live one's, unless they are broken or take away what a target needs, or
/// cannot be held against the targets. `None` when the live ones are broken and nothing was ever accepted.
fn choose_defaults<'a>(
    live: &'a Reading,
    accepted: &'a Reading,
    problems: &mut Vec<Problem>,
) -> Option<&'a Reading> {
    let nothing_yet = accepted.texts.defaults.is_none() && accepted.texts.targets.is_empty();
    if !live.is_listed() && !nothing_yet && accepted.defaults.is_ok() {
        // That they cannot be listed is told.
        problems.extend(live.defaults.as_ref().err().cloned());
        return Some(accepted);
    }
    let fault = match &live.defaults {
        Ok(defaults) => stranded(live, accepted, defaults.as_ref()),
        Err(problem) => Some(problem.clone()),
    };
    let Some(fault) = fault else {
        return Some(live);
    };
    problems.push(fault);
    (!nothing_yet && accepted.defaults.is_ok()).then_some(accepted)
}

/// The first target that runs now and could not by these defaults, as a fault of theirs.
fn stranded(live: &Reading, accepted: &Reading, defaults: Option<&Document>) -> Option<Problem> {
    let reason = |name: &TargetName| {
        let merged = |reading: &Reading| Settings::merge(name, &reading.target(name)?.ok()?, defaults).err();
        // Runs now, and could go on neither by its new file nor by its old one.
        let runs = accepted.settings(name)?.is_ok();
        let by_new =
            live.target(name)?.is_ok_and(|document| Settings::merge(name, &document, defaults).is_ok());
        if by_new || !runs { None } else { merged(accepted) }
    };
    live.texts.targets.keys().find_map(|name| {
        let Problems(why) = reason(name)?;
        let why = why.first().map(ToString::to_string).unwrap_or_default();
        let file = live.folder.shown(&live.folder.defaults());
        Some(Problem::of_file(&file, format!("target `{name}` could not run by this: {why}")))
    })
}

/// What right a target has to the tag directory that it is to have, the best first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Stays,
    /// It could not go where it wanted, and new defaults move it from where it was.
    Bound,
    Moves,
    New,
}

/// What a target is judged by.
struct Judging<'a> {
    live: &'a Reading,
    accepted: &'a Reading,
    defaults: Option<&'a Document>,
}

impl Judging<'_> {
    /// All targets. One that cannot go where it would, and whose place another takes, stays where it was, so that
    /// the other cannot go there.
    fn all(&self, names: &BTreeSet<TargetName>, problems: &mut Vec<Problem>) -> BTreeMap<TargetName, Judged> {
        let mut staying = BTreeSet::new();
        loop {
            let mut told = Vec::new();
            let targets = self.round(names, &staying, &mut told);
            let is_lost = |name: &&TargetName| {
                let judged = &targets[*name];
                judged.before.is_some() && judged.after.is_none() && !staying.contains(*name)
            };
            let lost: BTreeSet<TargetName> = names.iter().filter(is_lost).cloned().collect();
            if lost.is_empty() {
                problems.extend(told);
                return targets;
            }
            let folder = &self.live.folder;
            let files: BTreeSet<PathBuf> =
                lost.iter().map(|name| folder.shown(&folder.target(name))).collect();
            problems.extend(told.into_iter().filter(|problem| files.contains(&problem.file)));
            staying.extend(lost);
        }
    }

    /// Each by its right to its tag directory, the best first; those that stay by what was accepted.
    fn round(
        &self,
        names: &BTreeSet<TargetName>,
        staying: &BTreeSet<TargetName>,
        problems: &mut Vec<Problem>,
    ) -> BTreeMap<TargetName, Judged> {
        let mut names: Vec<&TargetName> = names.iter().collect();
        names.sort_by_cached_key(|name| self.claim(name, staying.contains(*name)));
        let (mut targets, mut taken) = (BTreeMap::new(), BTreeMap::new());
        for name in names {
            let after = match staying.contains(name) {
                true => self.accepted(name, &taken),
                false => self.target(name, &taken, problems),
            };
            if let Some((settings, _)) = &after {
                taken.insert(settings.tags.directory.clone(), name.clone());
            }
            targets.insert(
                name.clone(),
                Judged { before: self.accepted.settings(name).and_then(Result::ok), after },
            );
        }
        targets
    }

    fn claim(&self, name: &TargetName, stays: bool) -> Claim {
        let Some(before) = self.accepted.settings(name) else {
            return Claim::New;
        };
        let old = || self.merged(name, self.accepted);
        let after = if stays { old() } else { self.merged(name, self.live).or_else(|_| old()) };
        match (before, after) {
            (Ok(before), Ok((after, _))) if before.tags.directory == after.tags.directory => Claim::Stays,
            _ if stays => Claim::Bound,
            _ => Claim::Moves,
        }
    }

    /// The live file if it is good, else the accepted copy.
    fn target(
        &self,
        name: &TargetName,
        taken: &BTreeMap<PathBuf, TargetName>,
        problems: &mut Vec<Problem>,
    ) -> Option<(Settings, String)> {
        match self.placed(name, self.live, taken) {
            Ok(found) => Some(found),
            Err(Problems(why)) => {
                problems.extend(why);
                self.accepted(name, taken)
            }
        }
    }

    fn accepted(
        &self,
        name: &TargetName,
        taken: &BTreeMap<PathBuf, TargetName>,
    ) -> Option<(Settings, String)> {
        self.placed(name, self.accepted, taken).ok()
    }

    fn placed(
        &self,
        name: &TargetName,
        reading: &Reading,
        taken: &BTreeMap<PathBuf, TargetName>,
    ) -> Result<(Settings, String), Problems> {
        let found = self.merged(name, reading)?;
        let before = self.accepted.settings(name).and_then(Result::ok);
        let stays = before.is_some_and(|before| before.tags.directory == found.0.tags.directory);
        placed(found, taken, stays)
    }

    fn merged(&self, name: &TargetName, reading: &Reading) -> Result<(Settings, Document), Problems> {
        let document = reading.target(name).unwrap_or_else(|| Err(no_copy(name, reading)))?;
        Ok((Settings::merge(name, &document, self.defaults)?, document))
    }
}

fn no_copy(name: &TargetName, reading: &Reading) -> Problem {
    Problem::of_file(&reading.folder.shown(&reading.folder.target(name)), "there is no such file")
}

#[cfg(test)]
mod tests {
    use super::super::folder::Folder;
    use super::*;
    use std::fs;
    use std::path::Path;

    const GOOD: &str = "source = '/srv/a'\nssh.host = 'h'\n";

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join("etc/blat").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn judged(files: &[(&str, &str)]) -> Verdict {
        let root = tempfile::tempdir().unwrap();
        files.iter().for_each(|(path, text)| put(root.path(), path, text));
        judge(&Reading::of(Folder::live(root.path())), &Reading::of(Folder::accepted(root.path())))
    }

    fn host(verdict: &Verdict, name: &str) -> Option<String> {
        let target = verdict.targets.get(&name.parse().unwrap())?;
        target.after.as_ref().map(|(settings, _)| settings.destination.ssh().unwrap().ssh.host.to_string())
    }

    #[test]
    fn a_broken_target_keeps_its_accepted_copy_and_the_others_go_on() {
        let old = "source = '/a'\nssh.host = 'old'";
        let verdict = judged(&[
            ("targets/a.toml", "x = "),
            (".accepted/targets/a.toml", old),
            ("targets/b.toml", GOOD),
        ]);
        assert_eq!(host(&verdict, "a").as_deref(), Some("old"));
        assert_eq!(host(&verdict, "b").as_deref(), Some("h"));
        assert_eq!(verdict.problems.len(), 1);
    }

    #[test]
    fn a_broken_target_with_no_accepted_copy_has_no_settings() {
        let verdict = judged(&[("targets/a.toml", "x = ")]);
        assert_eq!(host(&verdict, "a"), None);
    }

    #[test]
    fn broken_defaults_keep_the_accepted_ones_for_all() {
        let verdict = judged(&[
            ("blat.toml", "source = 5"),
            (".accepted/blat.toml", "source = '/old'"),
            ("targets/a.toml", "ssh.host = 'h'"),
        ]);
        assert_eq!(verdict.defaults.as_ref().unwrap().as_deref(), Some("source = '/old'"));
        let target = &verdict.targets[&"a".parse().unwrap()];
        assert_eq!(target.after.as_ref().unwrap().0.source, Path::new("/old"));
    }

    #[test]
    fn broken_defaults_with_nothing_accepted_let_nothing_start() {
        let verdict = judged(&[("blat.toml", "source = 5"), ("targets/a.toml", GOOD)]);
        assert_eq!(host(&verdict, "a"), None);
        assert_eq!(verdict.problems.len(), 1);
    }

    #[test]
    fn defaults_that_strand_a_running_target_are_refused() {
        let target = "ssh.host = 'h'";
        let verdict = judged(&[
            ("blat.toml", ""),
            (".accepted/blat.toml", "source = '/old'"),
            ("targets/a.toml", target),
            (".accepted/targets/a.toml", target),
        ]);
        assert_eq!(verdict.defaults.as_ref().unwrap().as_deref(), Some("source = '/old'"));
        assert_eq!(host(&verdict, "a").as_deref(), Some("h"));
        let said = verdict.problems[0].to_string();
        assert!(said.starts_with("/etc/blat/blat.toml: target `a` could not run by this: "), "{said}");
    }

    #[test]
    fn of_two_with_one_tag_directory_the_one_that_had_it_keeps_it() {
        let both = format!("{GOOD}tags.directory = '/t'");
        let verdict = judged(&[
            ("targets/a.toml", &both),
            ("targets/b.toml", &both),
            (".accepted/targets/b.toml", &both),
        ]);
        assert_eq!(host(&verdict, "a"), None);
        assert_eq!(host(&verdict, "b").as_deref(), Some("h"));
        assert!(
            verdict.problems[0]
                .to_string()
                .starts_with("/etc/blat/targets/a.toml:3:18: key `tags.directory`: ")
        );
    }

    #[test]
    fn a_tag_directory_in_anothers_or_around_it_or_of_blats_own_files_is_refused() {
        let at = |directory: &str| format!("{GOOD}tags.directory = '{directory}'");
        let (held, own) = (at("/t/b"), "/var/lib/blat");
        let refused = [
            ("/t", "the tag directory of target `b` lies in this one"),
            ("/t/b/c", "this lies in the tag directory of target `b`"),
            (own, "blat has its own files in"),
            ("/var/lib/blat/a", "blat has its own files in"),
            ("/var/lib/blat/tags", "blat has its own files in"),
            ("/var", "blat has its own files in"),
        ];
        for (directory, why) in refused {
            let files = [("targets/b.toml", &*held), (".accepted/targets/b.toml", &held)];
            let verdict = judged(&[&files[..], &[("targets/a.toml", &at(directory))]].concat());
            assert_eq!(
                (host(&verdict, "a"), host(&verdict, "b").as_deref()),
                (None, Some("h")),
                "{directory}"
            );
            let told = verdict.problems[0].to_string();
            assert!(told.contains(why), "{directory}: {told}");
        }
        for directory in ["/t/c", "/t/b.c", "/var/lib/blat/tags/b"] {
            let verdict = judged(&[("targets/b.toml", &held), ("targets/a.toml", &at(directory))]);
            assert!(verdict.problems.is_empty(), "{directory}: {:?}", verdict.problems);
        }
        let (a, b) = (at("/var/lib/blat/tags"), at("/var/lib/blat/tags/b"));
        let files = [("targets/a.toml", &*a), ("targets/b.toml", &b)];
        let accepted = [(".accepted/targets/a.toml", &*a), (".accepted/targets/b.toml", &b)];
        let verdict = judged(&[files, accepted].concat());
        assert_eq!((host(&verdict, "a").as_deref(), host(&verdict, "b").as_deref()), (Some("h"), Some("h")));
        assert!(verdict.problems.is_empty(), "what runs goes on");
    }

    #[test]
    fn defaults_that_lead_a_running_target_to_a_wrong_tag_directory_are_refused() {
        let (target, wide) = ("ssh.host = 'h'\n", "ssh.host = 'h'\ntags.directory = '/y'\n");
        for directory in ["/y/{target}", "/var/lib/blat/{target}"] {
            let defaults = format!("source = '/srv/a'\ntags.directory = '{directory}'\n");
            let verdict = judged(&[
                ("blat.toml", &defaults),
                (".accepted/blat.toml", "source = '/srv/a'\n"),
                ("targets/a.toml", target),
                (".accepted/targets/a.toml", target),
                ("targets/wide.toml", wide),
                (".accepted/targets/wide.toml", wide),
            ]);
            let of = |name: &str| {
                verdict.targets[&name.parse().unwrap()].settings().unwrap().tags.directory.clone()
            };
            assert_eq!((of("a"), of("wide")), ("/var/lib/blat/tags/a".into(), "/y".into()));
            assert_eq!(verdict.defaults.as_ref().unwrap().as_deref(), Some("source = '/srv/a'\n"));
            let said = verdict.problems[0].to_string();
            assert!(said.starts_with("/etc/blat/blat.toml: target `a` could not run by this: "), "{said}");
        }
    }

    #[test]
    fn a_target_that_moves_takes_the_tag_directory_of_none_that_stays() {
        let at = |directory: &str| format!("{GOOD}tags.directory = '{directory}'");
        for unchanged in [at("/b"), "x = ".into()] {
            let verdict = judged(&[
                ("targets/a.toml", &at("/b")),
                (".accepted/targets/a.toml", &at("/a")),
                ("targets/b.toml", &unchanged),
                (".accepted/targets/b.toml", &at("/b")),
            ]);
            let directory = |name: &str| {
                let settings = verdict.targets[&name.parse().unwrap()].settings();
                settings.map(|settings| settings.tags.directory.clone())
            };
            assert_eq!(directory("a").as_deref(), Some(Path::new("/a")));
            assert_eq!(directory("b").as_deref(), Some(Path::new("/b")));
            let told = |problem: &Problem| problem.to_string().starts_with("/etc/blat/targets/a.toml:3:18: ");
            assert!(verdict.problems.iter().any(told), "{:?}", verdict.problems);
        }
    }

    #[test]
    fn a_target_that_cannot_move_keeps_its_tag_directory_from_one_that_moves_there() {
        let at = |directory: &str| format!("{GOOD}tags.directory = '{directory}'");
        let verdict = judged(&[
            ("targets/a.toml", &at("/b")),
            (".accepted/targets/a.toml", &at("/a")),
            ("targets/b.toml", &at("/c")),
            (".accepted/targets/b.toml", &at("/b")),
            ("targets/c.toml", &at("/c")),
            (".accepted/targets/c.toml", &at("/c")),
        ]);
        let directory = |name: &str| {
            let settings = verdict.targets[&name.parse().unwrap()].settings();
            settings.map(|settings| settings.tags.directory.clone())
        };
        for name in ["a", "b", "c"] {
            assert_eq!(directory(name), Some(Path::new("/").join(name)));
        }
        let mut told: Vec<_> = verdict.problems.iter().map(|problem| problem.file.clone()).collect();
        told.sort();
        assert_eq!(told, ["/etc/blat/targets/a.toml", "/etc/blat/targets/b.toml"].map(PathBuf::from));
        let verdict = judged(&[
            ("targets/a.toml", &at("/b")),
            (".accepted/targets/a.toml", &at("/a")),
            ("targets/b.toml", &at("/a")),
            (".accepted/targets/b.toml", &at("/b")),
        ]);
        assert!(verdict.problems.is_empty(), "they change places");
    }

    #[test]
    fn defaults_that_move_a_target_onto_another_take_nothing_from_that() {
        for (moved, holder) in [("a", "b"), ("b", "a")] {
            let defaults = |directory: &str| format!("source = '/srv/a'\ntags.directory = '{directory}'\n");
            let held = format!("ssh.host = 'h'\ntags.directory = '/y/{moved}'\n");
            let verdict = judged(&[
                ("blat.toml", &defaults("/y/{target}")),
                (".accepted/blat.toml", &defaults("/x/{target}")),
                (&format!("targets/{moved}.toml"), "ssh.host = 'h'\n"),
                (&format!(".accepted/targets/{moved}.toml"), "ssh.host = 'h'\n"),
                (&format!("targets/{holder}.toml"), &held),
                (&format!(".accepted/targets/{holder}.toml"), &held),
            ]);
            assert!(verdict.targets[&holder.parse().unwrap()].settings().is_some(), "{holder}");
            let file = PathBuf::from(format!("/etc/blat/targets/{moved}.toml"));
            let told =
                |problem: &Problem| problem.file == file || problem.to_string().contains("tag directory");
            assert!(verdict.problems.iter().any(told), "{:?}", verdict.problems);
        }
    }

    #[test]
    fn a_file_that_is_no_text_is_broken_and_not_removed() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), ".accepted/targets/a.toml", GOOD);
        put(root.path(), "targets/a.toml", "");
        fs::write(root.path().join("etc/blat/targets/a.toml"), b"# gr\xfc\xdfe").unwrap();
        let verdict =
            judge(&Reading::of(Folder::live(root.path())), &Reading::of(Folder::accepted(root.path())));
        assert!(verdict.removed.is_empty());
        assert_eq!(host(&verdict, "a").as_deref(), Some("h"));
    }
}
