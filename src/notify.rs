//! `blat notify`: an entry of the journal that says that a person is needed.
//!
//! `blat-notify@.service` runs it, for a unit that failed or for a target; administrators put a
//! command of their own there. What a target needs a person for lies in its file `person`, which the
//! agent writes.

use std::fs;
use std::path::Path;

use crate::config::TargetName;
use crate::ledger;
use crate::places::{Places, replace};

/// Who failed, and why as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub about: String,
    pub target: Option<TargetName>,
    pub reason: String,
}

impl Call {
    /// The call for `about`: a unit, or a target. `variable` reads what systemd says of the failed unit.
    pub fn of(root: &Path, about: &str, variable: impl Fn(&str) -> Option<String>) -> Self {
        let target: Option<TargetName> = target_of(about);
        let places = target.as_ref().map(|name| Places::of(root, name));
        let noted = places.and_then(|places| fs::read_to_string(places.person()).ok());
        let unit_failed = is_unit(about).then(|| failed_unit(variable));
        let reason = match (unit_failed, noted) {
            (Some(unit), _) => unit,
            (None, Some(noted)) => noted.trim().to_owned(),
            (None, None) => "see `blat status`".to_owned(),
        };
        Self { about: about.to_owned(), target, reason }
    }

    /// Logs it.
    pub fn log(&self) {
        tracing::error!(
            message_id = ledger::PERSON_NEEDED,
            blat_target = self.target.as_ref().map(TargetName::as_str),
            blat_reason = self.reason,
            "{self}"
        );
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} needs a person: {}", self.about, self.reason)
    }
}

/// Notes what a target needs a person for, which has `blat-notify@NAME.service` started. That takes the second file
/// away. It is written last: a service that runs already and read the old reason leaves it.
pub fn call(places: &Places, reason: &str) {
    for (file, text) in [(places.person(), format!("{reason}\n")), (places.untold(), String::new())] {
        if let Err(why) = replace(&file, text.as_bytes()) {
            tracing::warn!("cannot write {}: {why}", file.display());
        }
    }
}

const KINDS: [&str; 5] = [".service", ".path", ".socket", ".timer", ".target"];

fn is_unit(about: &str) -> bool {
    about.starts_with("blat") && KINDS.iter().any(|kind| about.ends_with(kind))
}

/// The target that a unit is of, or that is named itself.
fn target_of(about: &str) -> Option<TargetName> {
    if !is_unit(about) {
        return about.parse().ok();
    }
    let (template, rest) = about.split_once('@')?;
    let instance = KINDS.iter().find_map(|kind| rest.strip_suffix(kind))?;
    // Those of one writer have the connection's number there.
    if template == "blat-tag" { None } else { instance.parse().ok() }
}

fn failed_unit(variable: impl Fn(&str) -> Option<String>) -> String {
    let result = variable("MONITOR_SERVICE_RESULT").unwrap_or_else(|| "it failed".into());
    match variable("MONITOR_EXIT_STATUS") {
        Some(status) => format!("the unit failed ({result}, {status})"),
        None => format!("the unit failed ({result})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_told_with_its_target_and_result() {
        let root = tempfile::tempdir().unwrap();
        let variable = |name: &str| {
            Some(match name {
                "MONITOR_SERVICE_RESULT" => "exit-code".to_owned(),
                _ => "78".to_owned(),
            })
        };
        let call = Call::of(root.path(), "blat-sync@site-1.service", variable);
        assert_eq!(call.target.as_ref().map(TargetName::as_str), Some("site-1"));
        let expected = "blat-sync@site-1.service needs a person: the unit failed (exit-code, 78)";
        assert_eq!(call.to_string(), expected);
        assert_eq!(Call::of(root.path(), "blat-config.service", |_| None).target, None);
        assert_eq!(Call::of(root.path(), "blat-tag@0-12-0.service", |_| None).target, None);
    }

    #[test]
    fn a_target_is_told_with_what_the_agent_noted() {
        let root = tempfile::tempdir().unwrap();
        let places = Places::of(root.path(), &"site1".parse().unwrap());
        fs::create_dir_all(&places.runtime).unwrap();
        call(&places, "the key is refused");
        let told = Call::of(root.path(), "site1", |_| None).to_string();
        assert_eq!(told, "site1 needs a person: the key is refused");
    }
}
