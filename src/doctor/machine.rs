//! What all targets need of this machine: the units as they were shipped, the two that are enabled, room for
//! their watches, and connections that go on as quickly as they were.

use std::fs;
use std::path::Path;

use super::shipped::UNITS;
use super::units::property;
use super::{Finding, Mend};
use crate::config::folder::Folder;

/// How many inotify instances a user may have.
const WATCHES: &str = "proc/sys/fs/inotify/max_user_instances";
/// systemd takes one for each line of a path unit that names something to watch,
const WATCHES_EACH: usize = 4;
/// and some for itself, as other programs of root's do.
const WATCHES_OF_OTHERS: usize = 24;
/// Whether the kernel forgets what a connection carries once that was silent.
const FORGETS: &str = "proc/sys/net/ipv4/tcp_slow_start_after_idle";

pub(super) fn look(root: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(UNITS.iter().filter_map(|(name, text)| unit(root, name, text)));
    if found.is_empty() {
        found.push(Finding::fine("units", format_args!("{} as they were shipped", UNITS.len())));
    }
    found.push(enabled("blat.target", "groups all targets"));
    found.push(enabled("blat-config.path", "watches /etc/blat"));
    let targets = Folder::accepted(root).count();
    let limit = fs::read_to_string(root.join(WATCHES));
    found.extend(limit.ok().and_then(|limit| Some(watches(targets, limit.trim().parse().ok()?))));
    let forgets = fs::read_to_string(root.join(FORGETS));
    found.extend(forgets.ok().map(|forgets| silence(forgets.trim() != "0")));
    found
}

/// How connections go on that were silent.
fn silence(forgets: bool) -> Finding {
    if !forgets {
        return Finding::fine("connections", "go on as quickly as they were, after any silence");
    }
    let is = "the kernel forgets after a second of silence what a connection carries: what is sent then to a \
              target that is far takes some round trips more";
    let mend = "/usr/lib/systemd/systemd-sysctl --prefix=/net/ipv4/tcp_slow_start_after_idle";
    Finding::wrong("connections", is, Mend::Here(mend.into()))
}

/// Whether the kernel lets the path units of so many targets watch, with that limit of `limit`.
fn watches(targets: usize, limit: usize) -> Finding {
    let needed = WATCHES_OF_OTHERS + WATCHES_EACH * targets;
    if limit >= needed {
        return Finding::fine("watches", format_args!("{limit} inotify instances for {targets} targets"));
    }
    let is = format!(
        "the kernel allows root {limit} inotify instances; systemd needs {WATCHES_EACH} for each of {targets} \
         targets, and has others: path units fail"
    );
    // A host's limit is its containers' too, and theirs to read alone.
    let mend = "/usr/lib/systemd/systemd-sysctl --prefix=/fs/inotify/max_user_instances; in a container, on its \
                host: sysctl fs.inotify.max_user_instances=8192; and look whether another file of sysctl.d says less";
    Finding::wrong("watches", is, Mend::Words(mend.into()))
}

/// What is wrong with an installed unit.
fn unit(root: &Path, name: &str, text: &str) -> Option<Finding> {
    let over = root.join("etc/systemd/system").join(name);
    if let Ok(found) = fs::symlink_metadata(&over) {
        let path = format!("/etc/systemd/system/{name}");
        let masked = found.is_symlink() && fs::read_link(&over).is_ok_and(|to| to == Path::new("/dev/null"));
        let mend = match masked {
            true => format!("systemctl unmask {name}"),
            false => format!("rm {path} && systemctl daemon-reload"),
        };
        let is = if masked {
            format!("{name} is masked")
        } else {
            format!("{path} hides the unit that was shipped")
        };
        return Some(Finding::wrong("units", is, Mend::Here(mend)));
    }
    let places = ["usr/lib/systemd/system", "usr/local/lib/systemd/system"];
    let texts = places.iter().filter_map(|place| fs::read_to_string(root.join(place).join(name)).ok());
    let installed = texts.map(|text| text.replace("=/usr/local/", "=/usr/")).next();
    let is = match installed {
        Some(installed) if installed == text => return None,
        Some(_) => format!("{name} is not as it was shipped"),
        None => format!("{name} is not installed"),
    };
    let mend = "install blat again (dpkg -i, or apt-get install --reinstall blat); changes of your own go into a drop-in: systemctl edit";
    Some(Finding::wrong("units", is, Mend::Words(mend.into())))
}

/// A unit that is enabled at install.
fn enabled(unit: &str, purpose: &str) -> Finding {
    let (active, file) = (property(unit, "ActiveState"), property(unit, "UnitFileState"));
    if active == "active" && file == "enabled" {
        return Finding::fine("units", format_args!("{unit} {purpose}"));
    }
    let is = format!("{unit}, which {purpose}, is {active} and {file}");
    Finding::wrong("units", is, Mend::Here(format!("systemctl enable --now {unit}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_limit_is_too_low_for_many_targets_and_the_shipped_one_is_not() {
        assert!(!watches(26, 128).is_wrong());
        assert!(watches(27, 128).is_wrong());
        let shipped = include_str!("../../packaging/sysctl/50-blat.conf").lines().last().unwrap();
        let shipped = shipped.strip_prefix("fs.inotify.max_user_instances = ").unwrap();
        assert!(!watches(2000, shipped.parse().unwrap()).is_wrong());
    }

    #[test]
    fn each_target_has_as_many_watches_as_its_path_units_have_lines_for_them() {
        let lines =
            UNITS.iter().filter(|(name, _)| name.ends_with("@.path")).flat_map(|(_, text)| text.lines());
        let kinds = ["PathExists=", "PathExistsGlob=", "PathChanged=", "PathModified=", "DirectoryNotEmpty="];
        let watched = lines.filter(|line| kinds.iter().any(|kind| line.starts_with(kind))).count();
        assert_eq!(watched, WATCHES_EACH);
    }
}
