//! The generator: for each target what its units need beyond the templates, made anew at every boot
//! and every reload of the manager.
//!
//! It reads /etc and the mount table, starts nothing, and touches no directory that it was told of:
//! at boot /var may not be there, and a network file system may hang. One bad target never keeps the
//! others from starting. What it would write is a value ([`plan`]), so a run is an ordinary test, and
//! `config apply` can tell what a reload would change.

mod drop_in;
mod network;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

pub use network::Mounts;

use crate::config::{Polling, Problem, Settings, TargetName, in_force};
use crate::sync::run::is_wanted;

const TEMPLATES: &str = "/usr/lib/systemd/system";

/// What lies at one place of the generator's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    File(String),
    Link(PathBuf),
}

/// The generator's whole output, by path inside its directory.
pub type Output = BTreeMap<PathBuf, Entry>;

/// What would be written, and which targets' files are broken.
pub fn plan(root: &Path) -> (Output, Vec<Problem>) {
    let (targets, problems) = in_force(root);
    let mounts = Mounts::read(root);
    let mut output: Output = targets.iter().flat_map(|settings| of_target(settings, &mounts)).collect();
    if let Some(text) = drop_in::tag_lines(&targets).text() {
        output.insert(PathBuf::from("blat-tag@.service.d/50-blat.conf"), Entry::File(text));
    }
    (output, problems)
}

/// The entries of one target.
pub fn of_target(settings: &Settings, mounts: &Mounts) -> Output {
    let name = &settings.name;
    let mut output = Output::new();
    let drop_ins = [
        (format!("blat@{name}.service"), drop_in::agent(settings)),
        (format!("blat@{name}.socket"), drop_in::socket(settings)),
        (format!("blat-tags@{name}.path"), drop_in::path(settings)),
        (format!("blat-tags@{name}.timer"), drop_in::timer(settings)),
        (format!("blat-transfer@{name}.service"), drop_in::transfer(settings)),
        (format!("blat-sync@{name}.timer"), drop_in::sync_timer(settings)),
        (format!("blat-sync@{name}.service"), drop_in::sync(settings)),
    ];
    for (unit, drop_in) in drop_ins {
        if let Some(text) = drop_in.text() {
            output.insert(PathBuf::from(format!("{unit}.d/50-blat.conf")), Entry::File(text));
        }
    }
    if settings.enabled {
        let link = agent_link(name);
        output.insert(link, template("blat@.service"));
    }
    if polls(settings, mounts) {
        output.insert(timer_link(name), template("blat-tags@.timer"));
    }
    if is_wanted(settings) {
        output.insert(sync_timer_link(name), template("blat-sync@.timer"));
    }
    output
}

/// Whether the tag directory is looked at by time.
pub fn polls(settings: &Settings, mounts: &Mounts) -> bool {
    match settings.tags.polling {
        Polling::Always => true,
        Polling::Never => false,
        Polling::Auto => mounts.is_network(&settings.tags.directory),
    }
}

/// The link by which `blat.target` wants the agent.
pub fn agent_link(name: &TargetName) -> PathBuf {
    PathBuf::from(format!("blat.target.wants/blat@{name}.service"))
}

/// The link by which the agent pulls in the polling timer, where it is wanted.
pub fn timer_link(name: &TargetName) -> PathBuf {
    PathBuf::from(format!("blat@{name}.service.wants/blat-tags@{name}.timer"))
}

/// The link by which the agent pulls in the timer of the synchronisation, where something says
/// what the target should have.
pub fn sync_timer_link(name: &TargetName) -> PathBuf {
    PathBuf::from(format!("blat@{name}.service.wants/blat-sync@{name}.timer"))
}

/// The target of whose unit a drop-in or a timer's link is.
pub(crate) fn instance(path: &Path) -> Option<TargetName> {
    let folder = path.iter().next()?.to_str()?;
    let (unit, _) = folder.rsplit_once('.')?;
    let (_, instance) = unit.rsplit_once('.')?.0.split_once('@')?;
    instance.parse().ok()
}

fn template(name: &str) -> Entry {
    Entry::Link(Path::new(TEMPLATES).join(name))
}

/// Writes the output into the directory that the manager named.
///
/// # Errors
/// The first of those that kept an entry from being written; the others are written all the same.
pub fn write(output: &Output, directory: &Path) -> io::Result<()> {
    let mut first = Ok(());
    for (path, entry) in output {
        let path = directory.join(path);
        let written = write_entry(&path, entry)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())));
        first = first.and(written);
    }
    first
}

fn write_entry(path: &Path, entry: &Entry) -> io::Result<()> {
    let make = || match entry {
        Entry::File(text) => std::fs::write(path, text),
        Entry::Link(link) => symlink(link, path),
    };
    match make() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path.parent().unwrap_or(path))?;
            make()
        }
        done => done,
    }
}

/// Reads back what an earlier run wrote for blat, from a directory that other generators share.
pub fn read_back(directory: &Path) -> Output {
    let mut output = Output::new();
    for folder in entries(directory) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("blat") {
            continue;
        }
        for path in entries(&folder) {
            let inside = path.strip_prefix(directory).unwrap_or(&path).to_owned();
            let entry = std::fs::read_link(&path).map(Entry::Link);
            if let Ok(entry) = entry.or_else(|_| std::fs::read_to_string(&path).map(Entry::File)) {
                output.insert(inside, entry);
            }
        }
    }
    output
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
