//! The index of a bucket: `packages.json`, which is for CI jobs to read as well.
//!
//! It is an object `{"format": 1, "packages": [...]}`; each package has a line of its own:
//!
//! | field | |
//! | --- | --- |
//! | `package`, `version` | what it is |
//! | `stamp` | seconds since 1970: when its `descpkg` was written, which tells builds apart |
//! | `size`, `sha256`, `etag` | of the object's bytes |
//! | `key` | the object's whole key |
//! | `link` | for a link: its text; the object then holds what it addresses |
//! | `excess_since` | seconds since 1970: since when nothing asks for it any more |
//!
//! It is written last, after all objects that it tells of.

use std::collections::BTreeMap;

use blat_target::package::PackageVersion;
use serde::{Deserialize, Serialize};

/// The format that is written here.
const FORMAT: u32 = 1;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub package: String,
    pub version: String,
    pub stamp: i64,
    /// In bytes.
    pub size: u64,
    /// In hexadecimal.
    pub sha256: String,
    pub key: String,
    /// Without quotes.
    pub etag: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excess_since: Option<i64>,
}

/// All objects, by package-version.
pub type Entries = BTreeMap<PackageVersion, Entry>;

/// Why a text is no index.
#[derive(Debug, thiserror::Error)]
pub enum BadIndex {
    #[error("it is no index: {0}")]
    Form(#[from] serde_json::Error),
    #[error("it has the format {0}, which a later blat wrote")]
    Format(u32),
}

#[derive(Deserialize)]
struct Read {
    format: u32,
    packages: Vec<Entry>,
}

/// Reads an index. Entries that name no package-version are left out.
///
/// # Errors
/// When it is none, or one of a later format.
pub fn read(text: &[u8]) -> Result<Entries, BadIndex> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let format = serde_json::from_slice::<Format>(text)?.format;
    if format != FORMAT {
        return Err(BadIndex::Format(format));
    }
    let read: Read = serde_json::from_slice(text)?;
    debug_assert_eq!(read.format, format);
    let id = |entry: &Entry| PackageVersion::new(&entry.package, &entry.version).ok();
    Ok(read.packages.into_iter().filter_map(|entry| Some((id(&entry)?, entry))).collect())
}

/// Writes an index: the same entries, the same bytes.
pub fn write(entries: &Entries) -> Vec<u8> {
    let mut text = format!("{{\"format\":{FORMAT},\"packages\":[").into_bytes();
    for (place, entry) in entries.values().enumerate() {
        text.extend_from_slice(if place == 0 { b"\n" } else { b",\n" });
        serde_json::to_writer(&mut text, entry).expect("an entry can be written as JSON");
    }
    text.extend_from_slice(b"\n]}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Entries {
        let entry = |version: &str, link: Option<&str>| Entry {
            package: "core".into(),
            version: version.into(),
            stamp: 7,
            size: 3,
            sha256: "ab".into(),
            key: format!("ci/core/core-{version}.zip"),
            etag: "e\"".into(),
            link: link.map(str::to_owned),
            excess_since: link.map(|_| 9),
        };
        let id = |version| PackageVersion::new("core", version).unwrap();
        [(id("1"), entry("1", None)), (id("current"), entry("current", Some("1")))].into()
    }

    #[test]
    fn an_index_reads_as_it_was_written_a_line_for_each() {
        let text = write(&entries());
        assert_eq!(read(&text).unwrap(), entries());
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 4);
        assert_eq!(read(&write(&Entries::new())).unwrap(), Entries::new());
    }

    #[test]
    fn what_is_no_index_is_told_apart_from_one_of_a_later_format() {
        assert!(matches!(read(b"{\"format\":2,\"things\":[]}"), Err(BadIndex::Format(2))));
        for text in ["", "{}", "[]", "{\"format\":1}"] {
            assert!(matches!(read(text.as_bytes()), Err(BadIndex::Form(_))), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in ".*") {
            let _ = read(text.as_bytes());
        }
    }
}
