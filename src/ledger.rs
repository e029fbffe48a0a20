//! The ledger: the kinds of entries that the journal keeps of a target, each with a stable id.
//!
//! An entry has `MESSAGE_ID`, `BLAT_TARGET`, and where they apply `BLAT_PACKAGE`, `BLAT_VERSION`,
//! `BLAT_BYTES`, `BLAT_USEC` (how long it took), `BLAT_CAUSE` (what a package was sent for) and
//! `BLAT_REASON` (why something failed or waits). `journalctl -x` explains each by the catalog in
//! packaging/catalog. An id is never given to another kind.

/// A package-version, or link, is on the target's disk and visible.
pub const COMMITTED: &str = "ca54d72e425b4d63a06969756f062107";
/// A synchronisation came to its end.
pub const SYNCED: &str = "5334cc8a012a4926b9ccb7c24c0c2bc4";
/// A synchronisation could not do its work.
pub const SYNC_FAILED: &str = "a427a8dabdc04ea9b69c2da9db3f87ab";
/// A person stopped a synchronisation.
pub const SYNC_STOPPED: &str = "6df51666175c44e080edcc0740b7a534";
/// One package-version cannot be sent, though the others are.
pub const PROBLEM: &str = "850e34e4923f4668ace8885cfc0580cd";
/// A tag waits.
pub const WAITS: &str = "c9e37899ec6d471785f1a9b39435c0bd";
/// A tag was given up.
pub const REJECTED: &str = "ec62e3ef3ac34972b5b5d88353488408";
/// Something that a person may want to know of a package that was sent.
pub const NOTICE: &str = "fc16c6e1513648cd8ca07acd5145b290";
/// A transfer failed as a whole.
pub const TRANSFER_FAILED: &str = "c53f0af7c8dc4a248b93de7c1d932b53";
/// Something in excess was marked.
pub const MARKED: &str = "e46a419242ec41c19c63609a7fdb120c";
/// Something in excess was deleted.
pub const DELETED: &str = "6e7b8b48799e4ed98a290c8c71a48b3e";
/// Nothing in excess is marked or deleted, or the PackageList not laid down, until a person says that it is safe.
pub const GUARDED: &str = "94f18c7f98594a77ac4b51892094f8ed";
/// A person holds all deletion back.
pub const HELD: &str = "c6825533d9cb4788af67a6ca38366268";
/// A person ended that.
pub const RELEASED: &str = "63613d4d1c3f46dbabf9fafcaf17142c";
/// The target made its index.
pub const INDEXED: &str = "38f4b516e138413cad3d05e2bf648246";
/// The target's own purge ran.
pub const PURGED: &str = "f8551af1497a4a86a3daa2fd7c49a753";
/// An old helper serves the target.
pub const OLD_HELPER: &str = "dd97b54c86aa4d1b9f51670a8ea134e5";
/// The connection to the target is up.
pub const CONNECTED: &str = "15fc32a0c66747308a57c0f94ceecf64";
/// The connection to the target is down.
pub const DISCONNECTED: &str = "fdbc59f0dc8146a1a3341bb107d92667";
/// A file of the configuration is broken.
pub const CONFIG_BROKEN: &str = "2dcde1e257674acaa07a8b0cb92d93b1";

/// A unit failed, or a target needs a person.
pub const PERSON_NEEDED: &str = "354efdb86d4c4c4cab5d42e4a68f9bda";

/// Each id, and the word that `blat history` has for it.
pub const ALL: [(&str, &str); 21] = [
    (COMMITTED, "committed"),
    (SYNCED, "synced"),
    (SYNC_FAILED, "sync-failed"),
    (SYNC_STOPPED, "sync-stopped"),
    (PROBLEM, "problem"),
    (WAITS, "waits"),
    (REJECTED, "rejected"),
    (NOTICE, "notice"),
    (TRANSFER_FAILED, "transfer-failed"),
    (MARKED, "marked"),
    (DELETED, "deleted"),
    (GUARDED, "guarded"),
    (HELD, "held"),
    (RELEASED, "released"),
    (INDEXED, "indexed"),
    (PURGED, "purged"),
    (OLD_HELPER, "old-helper"),
    (CONNECTED, "connected"),
    (DISCONNECTED, "disconnected"),
    (CONFIG_BROKEN, "config-broken"),
    (PERSON_NEEDED, "person-needed"),
];

/// The word for an id, if it is one of ours.
pub fn word(id: &str) -> Option<&'static str> {
    ALL.iter().find(|(known, _)| *known == id).map(|(_, word)| *word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const CATALOG: &str = include_str!("../packaging/catalog/blat.catalog");

    #[test]
    fn each_id_has_its_entry_in_the_catalog_and_each_entry_its_id() {
        let entries: BTreeSet<&str> = CATALOG.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
        let ids: BTreeSet<&str> = ALL.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids.len(), ALL.len(), "two kinds have one id");
        assert_eq!(entries, ids);
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
    }

    #[test]
    fn each_entry_explains_and_says_what_to_do() {
        for entry in CATALOG.split("\n-- ").skip(1) {
            let (head, text) = entry.split_once("\n\n").expect("a head and a text");
            assert!(head.contains("\nSubject: ") && head.contains("\nDefined-By: blat"), "{head}");
            assert!(text.trim().len() > 80, "{head} explains nothing");
        }
    }
}
