//! The current set of the last synchronisation, with who asks for each member.
//!
//! A first line of JSON has the releases; each other line is package, version and reasons, between
//! tabs, which no name has. A reason is the place of a release in the first line, `p` for the
//! target's own `[packages]`, or `l` for a link that leads there.

use std::fmt::Write;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use blat_target::package::PackageVersion;
use serde::{Deserialize, Serialize};

use super::{Seconds, seconds};
use crate::places::replace;
use crate::sync::current_set::CurrentSet;
use crate::sync::rows::Reason;

/// The first line of `/var/lib/blat/NAME/wanted`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// When the releases were asked.
    pub at: Seconds,
    pub releases: Vec<String>,
    /// Releases that the settings name and that are closed.
    pub closed: Vec<String>,
}

/// Who asks for a package-version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WantedBy {
    Release(String),
    /// The target's own `[packages]`.
    Packages,
    /// A link of the same package, which is wanted.
    Link,
}

/// Versions of a package, each with who asks for it.
pub type Asks = Vec<(PackageVersion, Vec<WantedBy>)>;

impl Wanted {
    /// Writes the set down, as it is now.
    pub fn keep(self, path: &Path, set: &CurrentSet) {
        let mut text = serde_json::to_string(&self).expect("texts and numbers");
        text.push('\n');
        for (place, member) in set.iter().enumerate() {
            let _ = write!(text, "{}\t{}\t", member.package, member.version);
            for (nth, reason) in set.reasons(place).enumerate() {
                let comma = if nth == 0 { "" } else { "," };
                let _ = match reason {
                    Reason::Release(place) => write!(text, "{comma}{place}"),
                    Reason::Packages => write!(text, "{comma}p"),
                    Reason::Link => write!(text, "{comma}l"),
                };
            }
            text.push('\n');
        }
        if let Err(why) = replace(path, text.as_bytes()) {
            tracing::warn!("cannot write {}: {why}", path.display());
        }
    }

    pub fn new(now: std::time::SystemTime, releases: Vec<String>, closed: Vec<String>) -> Self {
        Self { at: seconds(now), releases, closed }
    }

    /// Reads the first line, and what it has of `package`: each version, and who asks for it.
    pub fn of(path: &Path, package: &str) -> Option<(Self, Asks)> {
        let mut lines = BufReader::with_capacity(1 << 16, File::open(path).ok()?).lines();
        let head: Self = serde_json::from_str(&lines.next()?.ok()?).ok()?;
        let mut found = Vec::new();
        for line in lines {
            let line = line.ok()?;
            let mut parts = line.split('\t');
            if parts.next() == Some(package)
                && let (Some(version), Some(reasons)) = (parts.next(), parts.next())
                && let Ok(id) = PackageVersion::new(package, version)
            {
                found.push((id, reasons.split(',').filter_map(|reason| head.reason(reason)).collect()));
            }
        }
        Some((head, found))
    }

    fn reason(&self, reason: &str) -> Option<WantedBy> {
        Some(match reason {
            "p" => WantedBy::Packages,
            "l" => WantedBy::Link,
            place => WantedBy::Release(self.releases.get(place.parse::<usize>().ok()?)?.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Found;
    use crate::sync::rows::Rows;
    use blat_target::stamp::Stamp;

    #[test]
    fn each_member_comes_back_with_who_asks_for_it() {
        let mut rows = Rows::default();
        rows.add("core", "x", Reason::Release(1)).unwrap();
        rows.add("core", "x", Reason::Packages).unwrap();
        rows.add("other", "1", Reason::Release(0)).unwrap();
        let set = CurrentSet::gather(rows, |id| {
            Ok(match id.version.as_str() {
                "x" => Found::Link(b"1".to_vec()),
                _ => Found::Version { stamp: Stamp(1), writable_since: None },
            })
        })
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wanted");
        let releases = vec!["Bus/1".to_owned(), "Tram/2".to_owned()];
        let head = Wanted { at: 7, releases, closed: vec!["Bus/0".into()] };
        head.clone().keep(&path, &set);
        let (read, found) = Wanted::of(&path, "core").unwrap();
        assert_eq!(read, head);
        let reasons: Vec<_> = found.iter().map(|(id, by)| (id.version.to_string(), by.clone())).collect();
        let x = vec![WantedBy::Release("Tram/2".into()), WantedBy::Packages];
        assert_eq!(reasons, [("1".to_owned(), vec![WantedBy::Link]), ("x".to_owned(), x)]);
        assert!(Wanted::of(&path, "cor").unwrap().1.is_empty());
    }
}
