//! What a tag comes to: package-versions and links to send, a reason to wait, or a
//! reason to refuse it. Reads the source archive and the clock that it is given.

use std::time::{Duration, SystemTime};

use blat_target::package::{PackageVersion, link_target};
use blat_target::stamp::Stamp;

use crate::archive::{Archive, Found};
use crate::sync::current_set::LINKS_MAX;
use crate::tags::WaitsFor;

/// One thing that should stand on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) id: PackageVersion,
    pub(super) want: Want,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Version(Stamp),
    Link(Vec<u8>),
}

/// What a tag comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// In this order: what a link addresses comes before the link.
    Send(Vec<Step>),
    Wait {
        reason: String,
        what: WaitsFor,
    },
    Reject(String),
}

/// Resolves a tag for `id`. A package that has been writable for longer than `grace` is sent all the same.
pub(super) fn resolve(archive: &Archive, id: &PackageVersion, grace: Duration, now: SystemTime) -> Verdict {
    let mut steps = Vec::new();
    let mut at = id.clone();
    loop {
        let found = match archive.look(&at) {
            Ok(found) => found,
            Err(why) => {
                return wait(format!("cannot look at {at} in the source archive: {why}"), WaitsFor::Archive);
            }
        };
        match found {
            Found::Link(text) => match link_target(&at, &text) {
                Ok(_) if steps.len() == LINKS_MAX => {
                    return Verdict::Reject(format!(
                        "{id} leads through more than {LINKS_MAX} links, or in a circle"
                    ));
                }
                Ok(next) => {
                    steps.push(Step { id: at, want: Want::Link(text) });
                    at = next;
                }
                Err(why) => return Verdict::Reject(why.to_string()),
            },
            Found::Strange(why) => return Verdict::Reject(format!("{at}: {why}")),
            Found::Absent(why) => return wait(format!("{at}: {why}"), WaitsFor::Publishing),
            Found::Version { stamp, writable_since } => {
                let open = |since| now.duration_since(since).unwrap_or_default() <= grace;
                if writable_since.is_some_and(open) {
                    return wait(format!("{at} is still writable in the source archive"), WaitsFor::Sealing);
                }
                steps.push(Step { id: at, want: Want::Version(stamp) });
                steps.reverse();
                return Verdict::Send(steps);
            }
        }
    }
}

fn wait(reason: String, what: WaitsFor) -> Verdict {
    Verdict::Wait { reason, what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    const GRACE: Duration = Duration::from_secs(60);

    fn archive() -> (tempfile::TempDir, Archive) {
        let root = tempfile::tempdir().unwrap();
        let archive = Archive::open(root.path()).unwrap();
        (root, archive)
    }

    fn id(version: &str) -> PackageVersion {
        PackageVersion::new("core", version).unwrap()
    }

    fn package(root: &Path, version: &str, mode: u32) {
        let folder = root.join("core").join(version);
        fs::create_dir_all(&folder).unwrap();
        let descpkg = folder.join("descpkg");
        fs::write(&descpkg, "x").unwrap();
        fs::set_permissions(descpkg, fs::Permissions::from_mode(mode & 0o666)).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn look(archive: &Archive, version: &str, later: u64) -> Verdict {
        resolve(archive, &id(version), GRACE, SystemTime::now() + Duration::from_secs(later))
    }

    #[test]
    fn a_link_brings_what_it_addresses_first() {
        let (root, archive) = archive();
        package(root.path(), "2.72.0", 0o555);
        symlink("2.72.0", root.path().join("core/stable")).unwrap();
        symlink("stable", root.path().join("core/current")).unwrap();
        let Verdict::Send(steps) = look(&archive, "current", 0) else { panic!("not sent") };
        let order: Vec<_> = steps.iter().map(|step| step.id.version.as_str()).collect();
        assert_eq!(order, ["2.72.0", "stable", "current"]);
    }

    #[test]
    fn links_that_lead_elsewhere_or_in_a_circle_are_rejected() {
        let (root, archive) = archive();
        fs::create_dir(root.path().join("core")).unwrap();
        symlink("../other/1.0", root.path().join("core/out")).unwrap();
        symlink("b", root.path().join("core/a")).unwrap();
        symlink("a", root.path().join("core/b")).unwrap();
        assert!(matches!(look(&archive, "out", 0), Verdict::Reject(_)));
        assert!(matches!(look(&archive, "a", 0), Verdict::Reject(_)));
    }

    #[test]
    fn a_writable_package_waits_until_its_grace_is_over() {
        let (root, archive) = archive();
        package(root.path(), "1.0", 0o755);
        assert!(matches!(look(&archive, "1.0", 0), Verdict::Wait { what: WaitsFor::Sealing, .. }));
        assert!(matches!(look(&archive, "1.0", 62), Verdict::Send(_)));
    }

    #[test]
    fn what_cannot_be_looked_at_waits_for_the_archive() {
        let (root, archive) = archive();
        symlink("core", root.path().join("core")).unwrap();
        assert!(matches!(look(&archive, "1.0", 0), Verdict::Wait { what: WaitsFor::Archive, .. }));
    }

    #[test]
    fn what_is_not_there_waits_to_be_published() {
        let (_root, archive) = archive();
        assert!(matches!(look(&archive, "1.0", 0), Verdict::Wait { what: WaitsFor::Publishing, .. }));
    }
}
