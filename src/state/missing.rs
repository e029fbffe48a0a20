//! What a target should have and has not: since when, and why.
//!
//! Since when is since a synchronisation first saw it missing, not since the package was built: a
//! release may well take up what is years old.

use std::collections::HashMap;

use blat_target::package::PackageVersion;
use serde::{Deserialize, Serialize};

use super::Seconds;

/// How many are written down; the count tells of all.
const KEPT_MAX: usize = 10_000;

/// `/var/lib/blat/NAME/missing.json`: sorted, those first that have been missing longest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Missing {
    /// When the run began that found it so.
    pub at: Seconds,
    pub count: u64,
    pub items: Vec<MissingItem>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingItem {
    pub id: PackageVersion,
    pub since: Seconds,
    pub reason: String,
}

impl Missing {
    /// What a run that began `at` finds missing `now`; what `before` had already keeps its time.
    pub fn after(
        before: &Self,
        at: Seconds,
        now: Seconds,
        missing: impl IntoIterator<Item = (PackageVersion, String)>,
    ) -> Self {
        let known: HashMap<&PackageVersion, Seconds> =
            before.items.iter().map(|item| (&item.id, item.since)).collect();
        let item = |(id, reason): (PackageVersion, String)| {
            let since = known.get(&id).copied().unwrap_or(now).min(now);
            MissingItem { id, since, reason }
        };
        let mut items: Vec<_> = missing.into_iter().map(item).collect();
        items.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
        let count = items.len() as u64;
        items.truncate(KEPT_MAX);
        Self { at, count, items }
    }

    /// The first `count` of them.
    pub fn oldest(&self, count: usize) -> Vec<MissingItem> {
        self.items.iter().take(count).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_missing_before_keeps_its_time_and_comes_first() {
        let id = |version: &str| PackageVersion::new("core", version).unwrap();
        let missing = |versions: &[&str]| -> Vec<(PackageVersion, String)> {
            versions.iter().map(|version| (id(version), "gone".to_owned())).collect()
        };
        let first = Missing::after(&Missing::default(), 9, 10, missing(&["b"]));
        let second = Missing::after(&first, 19, 20, missing(&["a", "b"]));
        let seen: Vec<_> =
            second.items.iter().map(|item| (item.id.version.to_string(), item.since)).collect();
        assert_eq!(seen, [("b".into(), 10), ("a".into(), 20)]);
        // What came back and went again is missing anew.
        let third = Missing::after(&Missing::after(&second, 29, 30, missing(&[])), 39, 40, missing(&["b"]));
        assert_eq!((third.at, third.count, third.items[0].since), (39, 1, 40));
    }
}
