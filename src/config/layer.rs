//! One file as it was read: every key optional, every value checked, nothing merged yet.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, de};
use toml::de::{DeTable, DeValue};

use super::aging::AgingLayer;
use super::destination::Kind;
use super::keys;
use super::period::Period;
use super::problem::{Place, Problem};
use super::release::ReleaseLayer;
use super::size::Size;
use super::value::{
    AtOnce, BucketName, Calendar, Encryption, Endpoint, Host, OneWord, PathPattern, Polling, Prefix,
    RemoteBin, RemotePath, User, Verbosity,
};
use super::wanted::{Packages, ProjectName, ReleaseName};
use crate::memory;

/// The keys of `blat.toml` and of a target's file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Layer {
    pub(super) source: Option<PathPattern>,
    pub(super) enabled: Option<bool>,
    pub(super) verbosity: Option<Verbosity>,
    pub(super) releases: Option<Vec<ReleaseName>>,
    pub(super) projects: Option<Vec<ProjectName>>,
    pub(super) packages: Option<Packages>,
    pub(super) kind: Option<Kind>,
    pub(super) ssh: SshLayer,
    pub(super) target: TargetLayer,
    pub(super) s3: S3Layer,
    pub(super) tags: TagsLayer,
    pub(super) writable: WritableLayer,
    pub(super) sync: SyncLayer,
    pub(super) aging: AgingLayer,
    pub(super) release: ReleaseLayer,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SshLayer {
    pub(super) host: Option<Host>,
    #[serde(deserialize_with = "port")]
    pub(super) port: Option<u16>,
    pub(super) user: Option<User>,
    pub(super) identity: Option<PathPattern>,
    pub(super) known_hosts: Option<PathPattern>,
    pub(super) bandwidth: Option<Size>,
    pub(super) connections: Option<AtOnce>,
    #[serde(deserialize_with = "memory_here")]
    pub(super) memory: Option<Size>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TargetLayer {
    pub(super) archive: Option<RemotePath>,
    pub(super) bin: Option<RemoteBin>,
    pub(super) index_at: Option<Calendar>,
    pub(super) purge_at: Option<Calendar>,
    #[serde(deserialize_with = "memory_there")]
    pub(super) memory: Option<Size>,
    pub(super) hard_links: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct S3Layer {
    pub(super) bucket: Option<BucketName>,
    pub(super) prefix: Option<Prefix>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) region: Option<OneWord>,
    pub(super) path_style: Option<bool>,
    pub(super) storage_class: Option<OneWord>,
    pub(super) encryption: Option<Encryption>,
    pub(super) kms_key: Option<OneWord>,
    pub(super) credentials: Option<PathPattern>,
    pub(super) uploads: Option<AtOnce>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SyncLayer {
    #[serde(deserialize_with = "not_zero")]
    pub(super) period: Option<Period>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TagsLayer {
    pub(super) directory: Option<PathPattern>,
    #[serde(deserialize_with = "not_zero")]
    pub(super) poll: Option<Period>,
    pub(super) polling: Option<Polling>,
    pub(super) give_up: Option<Period>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WritableLayer {
    pub(super) grace: Option<Period>,
}

fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    match u16::deserialize(deserializer)? {
        0 => Err(de::Error::custom("there is no port 0")),
        port => Ok(Some(port)),
    }
}

fn memory_here<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Size>, D::Error> {
    at_least(memory::HERE_MIN, deserializer)
}

fn memory_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Size>, D::Error> {
    at_least(memory::THERE_MIN, deserializer)
}

fn at_least<'de, D: Deserializer<'de>>(least: u64, deserializer: D) -> Result<Option<Size>, D::Error> {
    let size = Size::deserialize(deserializer)?;
    if size.as_bytes() < least {
        return Err(de::Error::custom(format!("that is less than the {}m that it takes", least >> 20)));
    }
    Ok(Some(size))
}

pub(super) fn not_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Period>, D::Error> {
    let period = Period::deserialize(deserializer)?;
    if period.is_zero() {
        return Err(de::Error::custom("the period cannot be zero"));
    }
    Ok(Some(period))
}

/// A file that was read and whose values are good each by itself.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub(super) file: PathBuf,
    pub(super) text: String,
    pub(super) layer: Layer,
}

impl Document {
    /// Reads a text. `shown` is the file's name in what is said about it.
    ///
    /// # Errors
    /// The first fault: no TOML, an unknown key, a wrong type, a bad value.
    pub(super) fn parse(shown: &Path, text: String) -> Result<Self, Problem> {
        let layer = read(shown, &text)?;
        Ok(Self { file: shown.to_owned(), text, layer })
    }

    /// Where a key's value stands, if the file has the key.
    pub(super) fn place_of(&self, key: &str) -> Option<Place> {
        let table = DeTable::parse(&self.text).ok()?;
        let mut table = table.get_ref();
        let (tables, last) = key.rsplit_once('.').map_or((None, key), |(tables, last)| (Some(tables), last));
        for step in tables.into_iter().flat_map(|tables| tables.split('.')) {
            table = table.get(step)?.get_ref().as_table()?;
        }
        table.get(last).map(|value| Place::of(&self.text, &value.span()))
    }
}

fn read<T: DeserializeOwned>(shown: &Path, text: &str) -> Result<T, Problem> {
    toml::from_str(text).map_err(|error| problem(shown, text, &error))
}

/// Turns serde's words into ours: the key in full, and what it takes.
fn problem(shown: &Path, text: &str, error: &toml::de::Error) -> Problem {
    let span = error.span();
    let place = span.as_ref().map(|span| Place::of(text, span));
    let key = span.and_then(|span| key_at(text, &span));
    let found = Problem::of_file(shown, error.message().replace('\n', ", ")).at(place);
    let Some(key) = key else { return found };
    if error.message().starts_with("unknown field") {
        let mend = format!("the keys here are {}", keys::beside(&key));
        return Problem { message: "unknown key".into(), ..found }.mend(mend).about(key);
    }
    match keys::takes(&key) {
        Some(takes) => found.mend(takes).about(key),
        None => found.about(key),
    }
}

/// The key that a place belongs to, its tables in front, when the text is TOML at all.
fn key_at(text: &str, span: &Range<usize>) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let mut path = Vec::new();
    walk(table.get_ref(), span.start, &mut path);
    (!path.is_empty()).then(|| path.join("."))
}

/// Adds to `path` the entry that has `offset` in its key or value, and goes on inside.
fn walk(table: &DeTable<'_>, offset: usize, path: &mut Vec<String>) {
    for (key, value) in table {
        let inner = inside(value.get_ref(), offset);
        if key.span().contains(&offset) || value.span().contains(&offset) || inner {
            path.push(key.get_ref().to_string());
            if let Some(table) = value.get_ref().as_table() {
                walk(table, offset, path);
            }
            return;
        }
    }
}

/// Whether a table has this place in one of its entries: its own span is its header only.
fn inside(value: &DeValue<'_>, offset: usize) -> bool {
    value.as_table().is_some_and(|table| {
        table.iter().any(|(key, value)| {
            key.span().contains(&offset) || value.span().contains(&offset) || inside(value.get_ref(), offset)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        Document::parse(Path::new("f.toml"), text.into()).unwrap_err().to_string()
    }

    #[test]
    fn unknown_keys_name_place_and_key() {
        let found = fault("source = \"/a\"\n[ssh]\nhost = \"h\"\n  prot = 22\n");
        assert_eq!(
            found,
            "f.toml:4:3: key `ssh.prot`: unknown key; \
             the keys here are ssh.host, ssh.port, ssh.user, ssh.identity, ssh.known_hosts, ssh.bandwidth, ssh.connections, ssh.memory"
        );
        assert!(fault("[shh]\nhost = \"h\"\n").starts_with("f.toml:1:2: key `shh`: unknown key; "));
        assert!(fault("ssh.prot = 1").starts_with("f.toml:1:5: key `ssh.prot`: unknown key; "));
        assert!(fault("ssh = { prot = 1 }").starts_with("f.toml:1:9: key `ssh.prot`: unknown key; "));
    }

    #[test]
    fn wrong_types_and_bad_values_name_place_key_and_mend() {
        assert_eq!(
            fault("[tags]\npoll = \"5x\"\n"),
            "f.toml:2:8: key `tags.poll`: `5x` is not a period; \
             give seconds, or units of `d h m s` such as \"1h10m\""
        );
        let cases = [
            ("enabled = \"yes\"", "f.toml:1:11: key `enabled`: "),
            ("[ssh]\nport = 70000", "f.toml:2:8: key `ssh.port`: "),
            ("[ssh]\nport = 0", "f.toml:2:8: key `ssh.port`: there is no port 0; "),
            (
                "[ssh]\nmemory = '64m'",
                "f.toml:2:10: key `ssh.memory`: that is less than the 128m that it takes; ",
            ),
            ("[tags]\npoll = 0", "f.toml:2:8: key `tags.poll`: the period cannot be zero; "),
            ("source = 'srv'", "f.toml:1:10: key `source`: the path is not absolute; "),
            ("ssh = 1", "f.toml:1:7: key `ssh`: "),
            ("verbosity = 'loud'", "f.toml:1:13: key `verbosity`: unknown variant `loud`"),
        ];
        for (text, start) in cases {
            let found = fault(text);
            assert!(found.starts_with(start), "{found}");
        }
    }

    #[test]
    fn what_is_no_toml_names_its_place() {
        assert!(fault("source = \n").starts_with("f.toml:1:10: "), "{}", fault("source = \n"));
        assert!(fault("a = 1\na = 2\n").starts_with("f.toml:2:1: "), "{}", fault("a = 1\na = 2\n"));
    }

    #[test]
    fn keys_are_found_where_they_stand() {
        let text = "source = '/a'\nssh.port = 1\n[tags]\n\npoll = 5\n";
        let document = Document::parse(Path::new("f.toml"), text.into()).unwrap();
        assert_eq!(document.place_of("source"), Some(Place { line: 1, column: 10 }));
        assert_eq!(document.place_of("ssh.port"), Some(Place { line: 2, column: 12 }));
        assert_eq!(document.place_of("tags.poll"), Some(Place { line: 5, column: 8 }));
        assert_eq!(document.place_of("enabled"), None);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[a-z\\[\\]\\.= \"'#0-9\nä]{0,60}") {
            let _ = Document::parse(Path::new("f"), text);
        }
    }
}
