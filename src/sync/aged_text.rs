//! How what becomes of excess is shown: lines of text, and JSON for programs.

use blat_target::package::PackageVersion;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::aging::{Aged, Decision, Delete, Fate, Keep};
use crate::told::exact;

/// A line for each item: its word, what it is about, and why.
pub(super) fn lines(decision: &Decision) -> impl Iterator<Item = (&'static str, &PackageVersion, String)> {
    let unmark = decision.unmark.iter().map(|id| ("unmark", id, ": needed again, or gone".to_owned()));
    let aged =
        decision.aged.iter().map(|aged| (word(&aged.fate), &aged.id, format!(": {}", why(&aged.fate))));
    unmark.chain(aged)
}

/// How many are to be marked, and how many to be deleted.
pub(super) fn totals(decision: &Decision) -> String {
    let count = |wanted: &str| decision.aged.iter().filter(|aged| word(&aged.fate) == wanted).count();
    format!(", {} to mark, {} to delete", count("mark"), count("delete"))
}

fn word(fate: &Fate) -> &'static str {
    match fate {
        Fate::Keep(_) => "excess",
        Fate::Mark => "mark",
        Fate::Delete(_) => "delete",
    }
}

pub(super) fn why(fate: &Fate) -> String {
    match fate {
        Fate::Keep(Keep::Young { until }) => format!("marked, deleted from {} on", exact(*until)),
        Fate::Keep(Keep::Purge { until }) => {
            format!("marked, deleted by the target's own purge from {} on", exact(*until))
        }
        Fate::Keep(keep) => format!("kept: {keep}"),
        Fate::Mark | Fate::Delete(Delete::Excess) => "in excess".into(),
        Fate::Delete(Delete::Aged { since }) => format!("in excess since {}", exact(*since)),
        Fate::Delete(Delete::Dangling(id)) => format!("a link that leads to {id}, which goes"),
    }
}

impl Serialize for Decision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("unmark", &self.unmark)?;
        map.serialize_entry("excess", &self.aged)?;
        map.end()
    }
}

/// An item, with `fate`: `excess`, `mark` or `delete`.
impl Serialize for Aged {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("package", &self.id.package)?;
        map.serialize_entry("version", &self.id.version)?;
        map.serialize_entry("marked", &self.marked)?;
        map.serialize_entry("fate", word(&self.fate))?;
        map.serialize_entry("reason", &why(&self.fate))?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blat_target::message::Standing;
    use blat_target::stamp::Stamp;

    #[test]
    fn each_fate_has_its_word_and_its_reason() {
        let id = |version| PackageVersion::new("core", version).unwrap();
        let aged = |version, fate| Aged {
            id: id(version),
            stands: Standing::Version(Stamp(1)),
            marked: false,
            fate,
        };
        let decision = Decision {
            unmark: vec![id("0")],
            aged: vec![
                aged("1", Fate::Keep(Keep::Held)),
                aged("2", Fate::Keep(Keep::Young { until: 1_700_000_000 })),
                aged("3", Fate::Mark),
                aged("4", Fate::Delete(Delete::Aged { since: 1_700_000_000 })),
                aged("5", Fate::Delete(Delete::Dangling(id("4")))),
            ],
        };
        let lines: Vec<_> = lines(&decision).map(|(word, id, why)| format!("{word} {id}{why}")).collect();
        let expected = [
            "unmark core/0: needed again, or gone",
            "excess core/1: kept: deletion is held back; `blat release-hold` ends that",
            "excess core/2: marked, deleted from 2023-11-14T22:13:20Z on",
            "mark core/3: in excess",
            "delete core/4: in excess since 2023-11-14T22:13:20Z",
            "delete core/5: a link that leads to core/4, which goes",
        ];
        assert_eq!(lines, expected);
        assert_eq!(totals(&decision), ", 1 to mark, 2 to delete");
        let json = serde_json::to_value(&decision).unwrap();
        assert_eq!(json["excess"][3]["fate"], "delete");
        assert_eq!(json["unmark"][0]["version"], "0");
    }
}
