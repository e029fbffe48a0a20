//! The rows that a current set is made of: package-versions, each with why it is one.

use std::cmp::Ordering;

use blat_target::names::{Names, Span, TooMany};
use blat_target::package::{Name, NameError};

/// Why a package-version is in a current set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// This release has it: by its place in the list of releases that the rows came from.
    Release(u32),
    /// The target's `[packages]` names it.
    Packages,
    /// A link that is in the set addresses it.
    Link,
}

/// Rows in any order, the same one as often as it comes.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    pub(super) names: Names,
    pub(super) rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) package: Span,
    pub(super) version: Span,
    pub(super) reason: Reason,
}

/// Why something is no row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRow {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Many(#[from] TooMany),
}

impl Rows {
    /// Adds a row.
    ///
    /// # Errors
    /// When one of both is no name; the rows are as before then.
    pub fn add(&mut self, package: &str, version: &str, reason: Reason) -> Result<(), BadRow> {
        version.parse::<Name>()?;
        let last = self.rows.last().map(|row| row.package);
        let package = match last {
            Some(last) if self.names.text(last) == package => last,
            _ => {
                package.parse::<Name>()?;
                self.names.add(package.as_bytes())?
            }
        };
        let version = self.names.add(version.as_bytes())?;
        self.rows.push(Row { package, version, reason });
        Ok(())
    }

    /// How many rows there are, repeated ones included.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Sorts the rows by the bytes of package, version, and by reason; leaves each once.
    pub(super) fn sort(&mut self) {
        let names = &self.names;
        let order = |a: &Row, b: &Row| order(names, a, b);
        // A stable sort: it makes use of the order in which each release's rows come.
        self.rows.sort_by(order);
        self.rows.dedup_by(|a, b| order(a, b).is_eq());
    }
}

pub(super) fn order(names: &Names, a: &Row, b: &Row) -> Ordering {
    let package = || names.bytes(a.package).cmp(names.bytes(b.package));
    let version = || names.bytes(a.version).cmp(names.bytes(b.version));
    package().then_with(version).then_with(|| a.reason.cmp(&b.reason))
}
