//! Which other versions of a package the target holds that a new one may be told by: those that
//! stand here with the same stamp, the nearest by name first.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use blat_target::listing::{Listing, Stands};
use blat_target::package::{Name, PackageVersion};
use blat_target::stamp::Stamp;

use crate::archive::{Archive, Found};

/// How many on each side of the version, by name, are thought of.
const NEAR: usize = 2;

/// Another version of a package, the same here and on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    pub version: Name,
    pub stamp: Stamp,
    pub folder: PathBuf,
}

/// The versions of its package that a target may have and that are near `id` by name, as this
/// archive has them.
pub fn near_here(archive: &Archive, id: &PackageVersion) -> Vec<PackageVersion> {
    let package = archive.path(id);
    let listed = package.parent().map(Path::read_dir).into_iter().flatten().flatten().flatten();
    let names = listed.filter_map(|item| item.file_name().into_string().ok()?.parse::<Name>().ok());
    let near = nearest(id, names.map(|name| (name, ())).collect());
    near.into_iter().map(|(version, ())| id.with_version(version)).collect()
}

/// The bases for `id` among what the target has.
pub fn listed(archive: &Archive, listing: &Listing, id: &PackageVersion) -> Vec<Base> {
    let versions = listing.of(id.package.as_str()).filter_map(|entry| match entry.stands {
        Stands::Version(stamp) => Some((entry.version.parse().ok()?, stamp)),
        _ => None,
    });
    usable(archive, id, versions.collect())
}

/// The bases for `id` among versions of its package that the target has.
pub fn usable(archive: &Archive, id: &PackageVersion, versions: Vec<(Name, Stamp)>) -> Vec<Base> {
    let here = |(version, stamp): (Name, Stamp)| {
        let base = id.with_version(version);
        match archive.look(&base) {
            Ok(Found::Version { stamp: found, .. }) if found == stamp => {
                Some(Base { folder: archive.path(&base), version: base.version, stamp })
            }
            _ => None,
        }
    };
    nearest(id, versions).into_iter().filter_map(here).collect()
}

/// Those next to `id` by name, the nearest below first.
fn nearest<T>(id: &PackageVersion, mut versions: Vec<(Name, T)>) -> Vec<(Name, T)> {
    versions.retain(|(version, _)| *version != id.version);
    versions.sort_by(|(a, _), (b, _)| by_number(a.as_str(), b.as_str()));
    let own = id.version.as_str();
    let above = versions.partition_point(|(version, _)| by_number(version.as_str(), own).is_lt());
    let mut higher = versions.split_off(above);
    higher.truncate(NEAR);
    versions.reverse();
    versions.truncate(NEAR);
    versions.extend(higher);
    versions
}

/// The order of versions: numbers in them by their worth, the rest by its bytes.
fn by_number(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let ((one, rest), (other, other_rest)) = (part(left), part(right));
        if one.is_empty() || other.is_empty() {
            return one.len().cmp(&other.len()).then_with(|| a.cmp(b));
        }
        let number = |text: &str| text.trim_start_matches('0').to_owned();
        let order = match one.as_bytes()[0].is_ascii_digit() && other.as_bytes()[0].is_ascii_digit() {
            true => (number(one).len(), number(one)).cmp(&(number(other).len(), number(other))),
            false => one.cmp(other),
        };
        if order.is_ne() {
            return order;
        }
        (left, right) = (rest, other_rest);
    }
}

/// The first number, or text without one, and the rest.
fn part(text: &str) -> (&str, &str) {
    let digit = text.starts_with(|c: char| c.is_ascii_digit());
    text.split_at(text.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(id: &str, versions: &[&str]) -> Vec<String> {
        let versions = versions.iter().map(|version| (version.parse().unwrap(), ())).collect();
        let id = PackageVersion::new("core", id).unwrap();
        nearest(&id, versions).into_iter().map(|(name, ())| name.to_string()).collect()
    }

    #[test]
    fn the_nearest_versions_go_by_their_numbers() {
        let all = ["1.2.0", "1.9.1", "1.10.0", "1.11.0", "1.11.2", "2.0", "1.10.1"];
        assert_eq!(near("1.10.1", &all), ["1.10.0", "1.9.1", "1.11.0", "1.11.2"]);
        assert_eq!(near("0.1", &all), ["1.2.0", "1.9.1"]);
        assert_eq!(near("1.0", &["1.0"]), [""; 0]);
    }

    #[test]
    fn only_what_has_the_same_stamp_on_both_sides_is_a_base() {
        let root = tempfile::tempdir().unwrap();
        let archive = Archive::open(root.path()).unwrap();
        let id = PackageVersion::new("core", "1.1").unwrap();
        let folder = root.path().join("core/1.0");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("descpkg"), "x").unwrap();
        let version: Name = "1.0".parse().unwrap();
        let Ok(Found::Version { stamp, .. }) = archive.look(&id.with_version(version.clone())) else {
            panic!("it is there")
        };
        let base = Base { version: version.clone(), stamp, folder };
        assert_eq!(usable(&archive, &id, vec![(version.clone(), stamp)]), [base]);
        assert_eq!(usable(&archive, &id, vec![(version, Stamp(stamp.0 + 1))]), []);
        assert_eq!(near_here(&archive, &id).len(), 1);
    }
}
