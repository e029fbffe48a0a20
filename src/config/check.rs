//! `blat config check`: what is wrong with the live files, or the settings that they make.
//!
//! It judges as `apply` will, and changes nothing.

use std::io::{self, Write};
use std::path::Path;

use super::EX_CONFIG;
use super::folder::Folder;
use super::in_force::Reading;
use super::keys::KEYS;
use super::layer::Document;
use super::name::TargetName;
use super::problem::{Problem, Problems};
use super::settings::Settings;
use super::verdict::{Verdict, judge};

/// Looks at one target, or at all. Settings go to `out`, as TOML that can be pasted into a target's
/// file; what is wrong goes to `complaints`. Returns the exit code: 0, or 78 when anything is wrong.
///
/// # Errors
/// When it cannot be written.
pub fn check(
    root: &Path,
    name: Option<&str>,
    out: &mut dyn Write,
    complaints: &mut dyn Write,
) -> io::Result<u8> {
    let looked =
        Look { live: Reading::of(Folder::live(root)), accepted: Reading::of(Folder::accepted(root)) };
    match name.map(str::parse::<TargetName>) {
        Some(Ok(name)) => looked.one(&name, out, complaints),
        Some(Err(error)) => writeln!(complaints, "{error}").map(|()| EX_CONFIG),
        None => looked.all(out, complaints),
    }
}

struct Look {
    live: Reading,
    accepted: Reading,
}

impl Look {
    fn verdict(&self) -> Verdict {
        judge(&self.live, &self.accepted)
    }

    fn one(&self, name: &TargetName, out: &mut dyn Write, complaints: &mut dyn Write) -> io::Result<u8> {
        let file = self.live.folder.shown(&self.live.folder.target(name));
        let Some(document) = self.live.target(name) else {
            writeln!(complaints, "{}", Problem::of_file(&file, format!("there is no target `{name}`")))?;
            return Ok(EX_CONFIG);
        };
        let settings = self.live.settings(name).unwrap_or_else(|| Err(Problems(Vec::new())));
        // Faults that show only beside other targets are the verdict's to tell.
        let beside = self.verdict().problems.into_iter().filter(|problem| problem.file == file);
        let problems =
            settings.as_ref().err().map_or_else(|| beside.collect(), |Problems(list)| list.clone());
        if let (Ok(settings), Ok(document), []) = (&settings, &document, &problems[..]) {
            write!(out, "{}", self.shown(settings, document))?;
            let accepted = self.accepted.settings(name).is_some_and(|now| now.as_ref() == Ok(settings));
            if !accepted {
                writeln!(complaints, "{name}: good, but not accepted yet; blat-config.service does that")?;
            }
            return Ok(0);
        }
        problems.iter().try_for_each(|problem| writeln!(complaints, "{problem}"))?;
        self.say_what_holds(name, complaints)?;
        Ok(EX_CONFIG)
    }

    fn say_what_holds(&self, name: &TargetName, complaints: &mut dyn Write) -> io::Result<()> {
        match self.accepted.settings(name) {
            Some(Ok(_)) => {
                let copy = self.accepted.folder.shown(&self.accepted.folder.target(name));
                writeln!(
                    complaints,
                    "{name}: the settings that were accepted before are in force: {}",
                    copy.display()
                )
            }
            _ => writeln!(complaints, "{name}: no settings are in force"),
        }
    }

    fn all(&self, out: &mut dyn Write, complaints: &mut dyn Write) -> io::Result<u8> {
        let verdict = self.verdict();
        verdict.problems.iter().try_for_each(|problem| writeln!(complaints, "{problem}"))?;
        for (name, judged) in &verdict.targets {
            let good = matches!(self.live.settings(name), Some(Ok(live)) if Some(&live) == judged.settings());
            match (good, judged.settings()) {
                (true, Some(settings)) if settings.enabled => writeln!(out, "{name}: good")?,
                (true, _) => writeln!(out, "{name}: good, not enabled")?,
                (false, _) => self.say_what_holds(name, complaints)?,
            }
        }
        Ok(if verdict.problems.is_empty() { 0 } else { EX_CONFIG })
    }

    /// The settings as TOML, each with where it comes from.
    fn shown(&self, settings: &Settings, document: &Document) -> String {
        let values = toml::Table::try_from(settings).unwrap_or_default();
        let defaults = self.live.defaults.as_ref().ok().and_then(Option::as_ref);
        let sources: Vec<&Document> = std::iter::once(document).chain(defaults).collect();
        let mut text = format!("# Target {}.\n", settings.name);
        let mut table = "";
        for key in &KEYS {
            let value = value_at(&values, key.path);
            if value.is_empty() {
                // Of another kind of target.
                continue;
            }
            let (of, last) = key.path.rsplit_once('.').unwrap_or(("", key.path));
            if of != table {
                text += &format!("\n[{of}]\n");
                table = of;
            }
            let line = format!("{last} = {value}");
            text += &format!("{line:<44} # {}\n", origin(key.path, &sources));
        }
        text
    }
}

fn value_at(values: &toml::Table, path: &str) -> String {
    let (tables, last) = path.rsplit_once('.').map_or((None, path), |(tables, last)| (Some(tables), last));
    let mut steps = tables.into_iter().flat_map(|tables| tables.split('.'));
    let table = steps.try_fold(values, |table, step| table.get(step)?.as_table());
    table.and_then(|table| table.get(last)).map(ToString::to_string).unwrap_or_default()
}

/// The first file that has the key, and the line; or that none has.
fn origin(key: &str, sources: &[&Document]) -> String {
    let place =
        |document: &&Document| Some((document.file.display().to_string(), document.place_of(key)?.line));
    let found = sources.iter().find_map(place);
    found.map_or_else(|| "built in".into(), |(file, line)| format!("{file}:{line}"))
}
