//! How a plan is shown: as text with reasons and sizes, and as JSON for programs.
//!
//! The JSON is one object: a list for each kind of item, each item with `package`, `version` and
//! its reason, and `totals`. Times are RFC 3339 in UTC, stamps seconds since 1970, sizes bytes.

use std::fmt::Write;

use blat_target::package::PackageVersion;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::aged_text;
use super::plan::{Excess, Link, Plan, Problem, Send, There, Wait, WaitWhy};
use crate::told::{exact_of, size};

/// The plan as text, a line for each item, then the totals; made for `target`.
pub fn text(plan: &Plan, target: &str) -> String {
    let mut text = String::new();
    let mut line = |word: &str, id: &PackageVersion, rest: String| {
        let _ = writeln!(text, "{word:<7} {id}{rest}");
    };
    for send in &plan.sends {
        let size = send.bytes.map(|bytes| format!(", {}", size(bytes))).unwrap_or_default();
        line("send", &send.id, format!(": {}{size}", why_send(send)));
    }
    for link in &plan.links {
        line("link", &link.id, format!(" -> {}: {}", link.text, why_link(&link.there)));
    }
    plan.waits.iter().for_each(|wait| line("wait", &wait.id, format!(": {}", why_wait(&wait.why))));
    plan.problems.iter().for_each(|problem| line("problem", &problem.id, format!(": {}", problem.why)));
    match &plan.aged {
        Some(decision) => aged_text::lines(decision).for_each(|(word, id, why)| line(word, id, why)),
        None => plan.excess.iter().for_each(|excess| line("excess", &excess.id, excess_text(&excess.there))),
    }
    text + &totals(plan, target)
}

fn totals(plan: &Plan, target: &str) -> String {
    let totals = &plan.totals;
    let more = match (totals.send, totals.unmeasured) {
        (0, _) => String::new(),
        (send, unmeasured) if send == unmeasured => String::new(),
        (_, 0) => format!(" ({})", size(totals.bytes)),
        _ => format!(" ({} and more)", size(totals.bytes)),
    };
    format!(
        "{target}: {} members: {} unchanged, {} to send{more}, {} to link, {} waiting, {} with problems; {} in excess{}\n",
        totals.members,
        totals.unchanged,
        totals.send,
        totals.link,
        totals.wait,
        totals.problem,
        totals.excess,
        plan.aged.as_ref().map(aged_text::totals).unwrap_or_default()
    )
}

fn why_send(send: &Send) -> String {
    match &send.there {
        There::Nothing => "missing".into(),
        There::Version(there) => {
            format!("another build: stamp {} here, {there} there", send.stamp)
        }
        There::Link(text) => format!("a link to {} stands in its place", text.escape_debug()),
        There::Other => "something else stands in its place".into(),
    }
}

fn why_link(there: &There) -> String {
    match there {
        There::Nothing => "missing".into(),
        There::Version(_) => "a package-version stands in its place".into(),
        There::Link(text) => format!("leads to {} there", text.escape_debug()),
        There::Other => "something else stands in its place".into(),
    }
}

pub(super) fn why_wait(why: &WaitWhy) -> String {
    match why {
        WaitWhy::Writable { since, until } => {
            format!("writable since {}, sent when it is sealed or at {}", exact_of(*since), exact_of(*until))
        }
        WaitWhy::Addressed(id) => format!("for {id}, which it addresses"),
    }
}

fn excess_text(there: &There) -> String {
    match there {
        There::Link(text) => format!(" -> {}", text.escape_debug()),
        There::Other => ": no package-version".into(),
        There::Version(_) | There::Nothing => String::new(),
    }
}

/// The plan as JSON, in one line; made for `target`.
pub fn json(plan: &Plan, target: &str) -> String {
    #[derive(Serialize)]
    struct Shown<'a> {
        target: &'a str,
        #[serde(flatten)]
        plan: &'a Plan,
    }
    serde_json::to_string(&Shown { target, plan }).expect("a plan has nothing that JSON cannot say")
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("send", &self.sends)?;
        map.serialize_entry("link", &self.links)?;
        map.serialize_entry("wait", &self.waits)?;
        map.serialize_entry("problem", &self.problems)?;
        map.serialize_entry("excess", &self.excess)?;
        map.serialize_entry("aging", &self.aged)?;
        map.serialize_entry("totals", &self.totals)?;
        map.end()
    }
}

/// Writes an item: its names, then what else it has.
fn item<S: Serializer>(
    serializer: S,
    id: &PackageVersion,
    more: impl FnOnce(&mut S::SerializeMap) -> Result<(), S::Error>,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("package", &id.package)?;
    map.serialize_entry("version", &id.version)?;
    more(&mut map)?;
    map.end()
}

impl Serialize for Send {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        item(serializer, &self.id, |map| {
            map.serialize_entry("stamp", &self.stamp)?;
            map.serialize_entry("bytes", &self.bytes)?;
            map.serialize_entry("there", &self.there)?;
            map.serialize_entry("reason", &why_send(self))
        })
    }
}

impl Serialize for Link {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        item(serializer, &self.id, |map| {
            map.serialize_entry("text", &self.text)?;
            map.serialize_entry("there", &self.there)?;
            map.serialize_entry("reason", &why_link(&self.there))
        })
    }
}

impl Serialize for Wait {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        item(serializer, &self.id, |map| {
            match &self.why {
                WaitWhy::Writable { since, until } => {
                    map.serialize_entry("writable_since", &exact_of(*since))?;
                    map.serialize_entry("until", &exact_of(*until))?;
                }
                WaitWhy::Addressed(id) => map.serialize_entry("for", &id.version)?,
            }
            map.serialize_entry("reason", &why_wait(&self.why))
        })
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        item(serializer, &self.id, |map| map.serialize_entry("reason", &self.why.to_string()))
    }
}

impl Serialize for Excess {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        item(serializer, &self.id, |map| map.serialize_entry("there", &self.there))
    }
}

/// `null`, a stamp, `{"link": text}` or `"other"`.
impl Serialize for There {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nothing => serializer.serialize_none(),
            Self::Version(stamp) => stamp.serialize(serializer),
            Self::Link(text) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("link", text)?;
                map.end()
            }
            Self::Other => serializer.serialize_str("other"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::plan::{ProblemWhy, Totals};
    use blat_target::stamp::Stamp;
    use std::time::{Duration, SystemTime};

    fn plan() -> Plan {
        let id = |version| PackageVersion::new("core", version).unwrap();
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let until = since + Duration::from_secs(3600);
        let send = |version, there, bytes| Send { id: id(version), stamp: Stamp(5), there, bytes };
        Plan {
            sends: vec![
                send("1", There::Nothing, Some(13_000_000)),
                send("2", There::Version(Stamp(4)), None),
            ],
            links: vec![Link { id: id("x"), text: "1".into(), there: There::Link("0".into()) }],
            waits: vec![Wait { id: id("3"), why: WaitWhy::Writable { since, until } }],
            problems: vec![Problem {
                id: id("4"),
                why: ProblemWhy::Missing("the source archive does not have it"),
            }],
            excess: vec![Excess { id: id("0"), there: There::Version(Stamp(1)) }],
            aged: None,
            totals: Totals {
                members: 6,
                unchanged: 1,
                send: 2,
                link: 1,
                wait: 1,
                problem: 1,
                excess: 1,
                undecided: 0,
                bytes: 13_000_000,
                unmeasured: 1,
            },
        }
    }

    #[test]
    fn the_text_has_a_line_with_a_reason_for_each_item() {
        let expected = "\
send    core/1: missing, 12.4 MiB
send    core/2: another build: stamp 5 here, 4 there
link    core/x -> 1: leads to 0 there
wait    core/3: writable since 2023-11-14T22:13:20Z, sent when it is sealed or at 2023-11-14T23:13:20Z
problem core/4: the source archive does not have it
excess  core/0
site1: 6 members: 1 unchanged, 2 to send (12.4 MiB and more), 1 to link, 1 waiting, 1 with problems; 1 in excess
";
        assert_eq!(text(&plan(), "site1"), expected);
    }

    #[test]
    fn the_json_has_all_of_it() {
        let json: serde_json::Value = serde_json::from_str(&json(&plan(), "site1")).unwrap();
        assert_eq!(json["target"], "site1");
        assert_eq!(json["send"][1]["there"], 4);
        assert_eq!(json["send"][0]["bytes"], 13_000_000);
        assert_eq!(json["link"][0]["there"]["link"], "0");
        assert_eq!(json["wait"][0]["until"], "2023-11-14T23:13:20Z");
        assert_eq!(json["problem"][0]["reason"], "the source archive does not have it");
        assert_eq!(json["excess"][0]["version"], "0");
        assert_eq!(json["totals"]["unchanged"], 1);
    }
}
