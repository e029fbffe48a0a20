//! What all targets need of this machine: the units as they were shipped, and the two that are enabled.

use std::fs;
use std::path::Path;

use super::shipped::UNITS;
use super::units::property;
use super::{Finding, Mend};

pub(super) fn look(root: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(UNITS.iter().filter_map(|(name, text)| unit(root, name, text)));
    if found.is_empty() {
        found.push(Finding::fine("units", format_args!("{} as they were shipped", UNITS.len())));
    }
    found.push(enabled("blat.target", "groups all targets"));
    found.push(enabled("blat-config.path", "watches /etc/blat"));
    found
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
