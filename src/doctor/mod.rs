//! `blat doctor`: looks at all that a target needs, and says of each that it is well, or what mends it.
//!
//! It changes nothing. What depends on something that is wrong is not looked at: the first thing that
//! is told of a matter is the one to mend.

pub mod bucket;
mod files;
mod finding;
mod machine;
mod release;
mod shipped;
mod there;
mod units;

use std::path::Path;

use anyhow::anyhow;

use crate::config::{self, Destination, Problems, Settings, SshTarget, TargetName, folder::Folder};
use crate::failure::{Failure, Result};
use crate::helper::Helper;
use crate::places::Places;
use crate::told::print;
pub use finding::{Finding, Mend};

/// What is looked at.
#[derive(Debug)]
pub struct Visit<'a> {
    pub root: &'a Path,
    pub helper: &'a Path,
}

/// A target that ssh reaches.
#[derive(Clone, Copy)]
struct Site<'a> {
    name: &'a TargetName,
    target: &'a SshTarget,
}

impl Site<'_> {
    /// What makes again whatever is missing between here and the target.
    fn enroll(self) -> String {
        let (name, ssh) = (self.name, &self.target.ssh);
        let port = if ssh.port == 22 { String::new() } else { format!(" --port {}", ssh.port) };
        format!("blat enroll {name} {}@{}{port}", ssh.user, ssh.host)
    }

    /// The same where the key has to be let in anew: nothing here knows any more whether it was restricted.
    fn enroll_key(self) -> String {
        format!("{}   # with --restrict, if the key was restricted", self.enroll())
    }
}

/// Looks at the machine and at one target, or all, and prints what is found.
///
/// # Errors
/// When something is wrong.
pub async fn run(visit: &Visit<'_>, only: Option<&TargetName>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::person(anyhow!("the keys and the units are root's: run it as root")));
    }
    let mut wrong = told("this machine", machine::look(visit.root));
    for name in targets(visit.root, only)? {
        wrong += told(name.as_str(), target(visit, &name).await);
    }
    match wrong {
        0 => Ok(()),
        1 => Err(Failure::person(anyhow!("one thing is wrong, as told above"))),
        count => Err(Failure::person(anyhow!("{count} things are wrong, as told above"))),
    }
}

/// Prints what was found; how much of it is wrong.
fn told(of: &str, found: Vec<Finding>) -> usize {
    print(&format!("{of}\n"));
    found.iter().for_each(|finding| print(&finding.to_string()));
    found.iter().filter(|finding| finding.is_wrong()).count()
}

fn targets(root: &Path, only: Option<&TargetName>) -> Result<Vec<TargetName>> {
    if let Some(name) = only {
        return Ok(vec![name.clone()]);
    }
    let texts = Folder::live(root).read_all();
    Ok(texts.targets.into_keys().collect())
}

/// Everything about one target, in the order in which one thing needs the other.
async fn target(visit: &Visit<'_>, name: &TargetName) -> Vec<Finding> {
    let live = match Settings::load_live(visit.root, name) {
        Ok(live) => live,
        Err(problems) => return vec![broken(name, &problems)],
    };
    let mut found = vec![in_force(visit.root, name, &live)];
    if !live.enabled {
        found.push(Finding::fine("enabled", "no: nothing of it runs, and nothing more is looked at"));
        return found;
    }
    let places = Places::of(visit.root, name);
    found.extend(files::look(&live, &places));
    found.extend(units::look(visit.root, &live));
    if let Some(finding) = release::look(&live) {
        found.push(finding);
    }
    let target = match &live.destination {
        Destination::Ssh(target) => target,
        Destination::S3(target) => {
            found.push(bucket::look(name, &target.s3, &places.sync_uploads()).await);
            return found;
        }
    };
    let site = Site { name, target };
    let key = files::key(site);
    let usable = !key.is_wrong();
    found.push(key);
    if usable {
        found.extend(match Helper::read(visit.helper) {
            Ok(helper) => there::look(site, &helper).await,
            Err(failure) => {
                vec![Finding::wrong("helper", failure, Mend::Here("apt-get install --reinstall blat".into()))]
            }
        });
    }
    found
}

fn broken(name: &TargetName, problems: &Problems) -> Finding {
    let mend = Mend::Words(format!("correct that place in the file, then: blat config check {name}"));
    Finding::wrong("config", problems, mend)
}

/// Whether what people wrote is what runs.
fn in_force(root: &Path, name: &TargetName, live: &Settings) -> Finding {
    let (settings, problems) = config::in_force(root);
    let same = settings.iter().any(|settings| settings == live);
    match problems.first() {
        _ if same => Finding::fine("config", format_args!("good, and in force; {name} is {}", place(live))),
        Some(problem) => Finding::wrong("config", problem, Mend::Here("blat config check".into())),
        None => Finding::wrong(
            "config",
            "good, but not in force yet",
            Mend::Here("systemctl start blat-config.service".into()),
        ),
    }
}

/// Where a target is, in a word.
fn place(settings: &Settings) -> String {
    match &settings.destination {
        Destination::Ssh(target) => target.ssh.host.to_string(),
        Destination::S3(target) => format!("the bucket {}", target.s3.bucket),
    }
}
