//! The units of one target: loaded as they are on disk, and running.

use std::path::Path;
use std::process::Command;

use super::{Finding, Mend};
use crate::config::Settings;
use crate::generator::{Mounts, polls};
use crate::sync::run::is_wanted;

/// A property of a unit, as the manager tells it.
pub(super) fn property(unit: &str, name: &str) -> String {
    let said = Command::new("systemctl").args(["show", "-P", name, unit]).output();
    said.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned()).unwrap_or_default()
}

pub(super) fn look(root: &Path, settings: &Settings) -> Vec<Finding> {
    let name = &settings.name;
    let mut units = vec![
        format!("blat@{name}.service"),
        format!("blat@{name}.socket"),
        format!("blat-tags@{name}.path"),
        format!("blat-sync@{name}.path"),
    ];
    if polls(settings, &Mounts::read(root)) {
        units.push(format!("blat-tags@{name}.timer"));
    }
    if is_wanted(settings) {
        units.push(format!("blat-sync@{name}.timer"));
    }
    // What the agent brings up is looked at when the agent runs.
    let agent = running(&units[0], &units[0]);
    let others = units[1..].iter().filter_map(|unit| running(unit, &units[0]));
    let mut found: Vec<Finding> = match agent {
        Some(finding) => vec![finding],
        None => others.collect(),
    };
    let short = [format!("blat-transfer@{name}.service"), format!("blat-sync@{name}.service")];
    found.extend(short.iter().filter_map(|unit| failed(unit)));
    if found.is_empty() {
        found.push(Finding::fine("units", format_args!("{} run", units.len())));
        found.extend(connected(&units[0]));
    }
    found
}

/// What is wrong with a unit that should be up; `agent` brings up the others.
fn running(unit: &str, agent: &str) -> Option<Finding> {
    if property(unit, "LoadState") == "masked" {
        let mend = format!("systemctl unmask {unit} && systemctl start {agent}");
        return Some(Finding::wrong("units", format_args!("{unit} is masked"), Mend::Here(mend)));
    }
    if property(unit, "NeedDaemonReload") == "yes" {
        let mend = Mend::Here("systemctl daemon-reload".into());
        return Some(Finding::wrong("units", format_args!("{unit} was changed on disk"), mend));
    }
    match property(unit, "ActiveState").as_str() {
        "active" => None,
        other => {
            let mend = Mend::Here(format!("systemctl start {unit}"));
            Some(Finding::wrong("units", format_args!("{unit} is {other}"), mend))
        }
    }
}

fn failed(unit: &str) -> Option<Finding> {
    (property(unit, "ActiveState") == "failed").then(|| {
        let mend = Mend::Here(format!("systemctl reset-failed {unit}"));
        Finding::wrong("units", format_args!("{unit} is failed: journalctl -u {unit} says why"), mend)
    })
}

/// What the agent says. What keeps it from its target is told below, by trying.
fn connected(agent: &str) -> Option<Finding> {
    let status = property(agent, "StatusText");
    status.starts_with("connected").then(|| Finding::fine("agent", status))
}
