//! What the journal says of each report: one entry of the ledger, with its fields.

use blat_target::package::PackageVersion;

use super::{Cause, Parts, Report, Upkeep};
use crate::ledger;
use crate::tags::Tag;
use crate::told::exact;

impl Report {
    /// Logs it under the name of `target`.
    pub fn log(&self, target: &str) {
        match self {
            Self::Committed { .. } => self.log_committed(target),
            Self::Synced { .. } => self.log_synced(target),
            Self::Marked { package, version } => marked(target, package, version),
            Self::Deleted { package, version, at } => deleted(target, package, version, *at),
            Self::Guarded { reason } => tracing::error!(
                message_id = ledger::GUARDED,
                blat_target = target,
                blat_reason = reason,
                "{reason}"
            ),
            Self::Held { reason } => held(target, reason.as_deref()),
            Self::Upkeep { .. } => self.log_upkeep(target),
            Self::Helper { old: Some(old) } => tracing::warn!(
                message_id = ledger::OLD_HELPER,
                blat_target = target,
                blat_reason = old,
                "the helper on the target is old: {old}"
            ),
            Self::SyncFailed { reason, .. } => tracing::error!(
                message_id = ledger::SYNC_FAILED,
                blat_target = target,
                blat_reason = reason,
                "not synchronised: {reason}"
            ),
            Self::SyncStopped => tracing::warn!(
                message_id = ledger::SYNC_STOPPED,
                blat_target = target,
                "the synchronisation was stopped; it goes on at its next start, by its timer or by hand"
            ),
            Self::Problem { reason, about } => tracing::warn!(
                message_id = ledger::PROBLEM,
                blat_target = target,
                blat_package = about.as_ref().map(|id| id.package.as_str()),
                blat_version = about.as_ref().map(|id| id.version.as_str()),
                blat_reason = reason,
                "{reason}"
            ),
            Self::Rejected { tag, reason } => rejected(target, tag, reason),
            Self::Waits { tag, reason } => waits(target, tag, reason),
            Self::Notice { reason } => tracing::warn!(
                message_id = ledger::NOTICE,
                blat_target = target,
                blat_reason = reason,
                "{reason}"
            ),
            Self::Trouble { reason, .. } => tracing::error!(
                message_id = ledger::TRANSFER_FAILED,
                blat_target = target,
                blat_reason = reason,
                "{reason}"
            ),
            Self::WindowBound => tracing::info!(
                blat_target = target,
                "the line takes more than one connection carries: more are made for as long as much is sent"
            ),
            Self::Queue { .. } | Self::NothingWanted | Self::Wanted | Self::Helper { old: None } => {}
        }
    }

    fn log_committed(&self, target: &str) {
        let Self::Committed { package, version, bytes, replaced, cause, micros, parts } = self else {
            return;
        };
        // The steps are told of what a tag asked for: they are measured from its drop.
        let step = |of: fn(&Parts) -> u64| (*cause == Cause::Tag).then(|| of(parts));
        tracing::info!(
            message_id = ledger::COMMITTED,
            blat_target = target,
            blat_package = package,
            blat_version = version,
            blat_bytes = bytes,
            blat_usec = micros,
            blat_cause = cause.word(),
            blat_usec_trigger = step(|parts| parts.trigger),
            blat_usec_claim = step(|parts| parts.claim),
            blat_usec_attach = step(|parts| parts.attach),
            blat_usec_send = step(|parts| parts.send),
            blat_usec_commit = step(|parts| parts.commit),
            "committed {package}/{version} ({bytes} bytes{})",
            if *replaced { ", another build before" } else { "" }
        );
    }

    fn log_synced(&self, target: &str) {
        let Self::Synced {
            members,
            packages,
            links,
            bytes,
            waiting,
            problems,
            failed,
            excess,
            marked,
            deleted,
            millis,
        } = self
        else {
            return;
        };
        tracing::info!(
            message_id = ledger::SYNCED,
            blat_target = target,
            blat_packages = packages,
            blat_bytes = bytes,
            blat_usec = millis * 1000,
            blat_millis = millis,
            "synchronised: {packages} packages sent ({bytes} bytes), {links} links made, {waiting} wait, \
             {problems} have problems, {failed} failed, {excess} in excess ({marked} marked, {deleted} deleted); {members} should be there; {millis} ms"
        );
    }
}

impl Report {
    fn log_upkeep(&self, target: &str) {
        let Self::Upkeep { what, at, count, failed, trouble } = self else { return };
        let (id, what, did) = match what {
            Upkeep::Index => (ledger::INDEXED, "index", "files are in it"),
            Upkeep::Purge => (ledger::PURGED, "purge", "were deleted"),
        };
        let at = exact(*at);
        match trouble {
            None => tracing::info!(
                message_id = id,
                blat_target = target,
                "the {what} on the target ran at {at}: {count} {did}"
            ),
            Some(trouble) => tracing::warn!(
                message_id = id,
                blat_target = target,
                blat_reason = trouble,
                "the {what} on the target ran at {at}: {count} {did}; it had {failed} failures, such as: {trouble}"
            ),
        }
    }
}

fn marked(target: &str, package: &str, version: &str) {
    tracing::info!(
        message_id = ledger::MARKED,
        blat_target = target,
        blat_package = package,
        blat_version = version,
        "marked {package}/{version}, which is in excess"
    );
}

fn deleted(target: &str, package: &str, version: &str, at: Option<i64>) {
    let by = at.map_or_else(String::new, |at| format!(": the target's own purge did, at {}", exact(at)));
    tracing::info!(
        message_id = ledger::DELETED,
        blat_target = target,
        blat_package = package,
        blat_version = version,
        "deleted {package}/{version}, which was in excess{by}"
    );
}

fn held(target: &str, reason: Option<&str>) {
    match reason {
        Some(reason) => tracing::warn!(
            message_id = ledger::HELD,
            blat_target = target,
            blat_reason = reason,
            "a person holds all deletion back: {reason}"
        ),
        None => tracing::info!(
            message_id = ledger::RELEASED,
            blat_target = target,
            "deletion is not held back any more"
        ),
    }
}

/// What a tag asks for, where its name says so.
fn asked(tag: &str) -> Option<PackageVersion> {
    tag.parse().ok().map(|Tag(id)| id)
}

fn rejected(target: &str, tag: &str, reason: &str) {
    let id = asked(tag);
    tracing::error!(
        message_id = ledger::REJECTED,
        blat_target = target,
        blat_tag = tag,
        blat_package = id.as_ref().map(|id| id.package.as_str()),
        blat_version = id.as_ref().map(|id| id.version.as_str()),
        blat_reason = reason,
        "rejected the tag {tag}: {reason}"
    );
}

fn waits(target: &str, tag: &str, reason: &str) {
    let id = asked(tag);
    tracing::warn!(
        message_id = ledger::WAITS,
        blat_target = target,
        blat_tag = tag,
        blat_package = id.as_ref().map(|id| id.package.as_str()),
        blat_version = id.as_ref().map(|id| id.version.as_str()),
        blat_reason = reason,
        "the tag {tag} waits: {reason}"
    );
}
