//! Whether what is to be sent fits on the target: found out while it is sent.
//!
//! To measure means to go through every file that is to be sent, so it is only done where it can
//! matter: where the file system of the source archive has more in use than the target has free; and
//! by a thread of its own.

use std::future::pending;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use blat_target::message::Info;
use blat_target::package::PackageVersion;
use nix::sys::statvfs::statvfs;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::plan::Plan;
use crate::archive::Archive;
use crate::pack;
use crate::progress::Progress;
use crate::told::size;

/// What each file takes beside its bytes, at most, on most file systems.
const BLOCK: u64 = 4096;

/// How much is to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Need {
    /// In whole blocks.
    pub(super) bytes: u64,
    /// Files, folders and links.
    pub(super) inodes: u64,
}

impl Need {
    pub(super) fn add(&mut self, bytes: u64, inodes: u64) {
        self.bytes = self.bytes.saturating_add(bytes).saturating_add(inodes.saturating_mul(BLOCK));
        self.inodes = self.inodes.saturating_add(inodes);
    }
}

/// For how long to wait for it in the end, where something was not sent.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// To look at more packages than this takes a while,
const MANY: usize = 64;
/// and begins only when the run has gone on for so long: one that is over sooner has told by then what did
/// not fit, and would have taken longer for it.
const BEGIN_AFTER: Duration = Duration::from_secs(10);

/// A look at what is to be sent, which goes on by itself until this is dropped.
pub(super) struct Look {
    warning: Option<oneshot::Receiver<Option<String>>>,
    /// Has it begin at once.
    hurry: mpsc::Sender<()>,
}

impl Look {
    /// Measures what `plan` sends of `archive`, which lies at `source`, if that can matter.
    pub(super) fn begin(plan: &Plan, source: &Path, archive: &Archive, info: Option<Info>) -> Self {
        let (hurry, hurried) = mpsc::channel();
        let needed = |info: &Info| !plan.sends.is_empty() && !all_fits(source, info);
        let warning = info.filter(needed).map(|info| {
            let (tell, warning) = oneshot::channel();
            let ids = plan.sends.iter().map(|send| send.id.clone()).collect();
            let archive = archive.clone();
            std::thread::spawn(move || {
                if let Some(need) = measure(&archive, ids, &hurried) {
                    // Nobody listens any more if it is over.
                    let _ = tell.send(told(need, &info));
                }
            });
            warning
        });
        Self { warning, hurry }
    }

    /// Waits for the warning that something does not fit; for ever, if there is none.
    pub(super) async fn warning(&mut self) -> String {
        if let Some(warning) = &mut self.warning {
            let told = warning.await;
            self.warning = None;
            if let Ok(Some(told)) = told {
                return told;
            }
        }
        pending().await
    }

    /// The warning, where something was not sent and it was not told yet: that may be why.
    pub(super) async fn last_warning(&mut self) -> Option<String> {
        let warning = self.warning.take()?;
        // Where it has begun, nobody waits for this.
        let _ = self.hurry.send(());
        timeout(WAIT_MAX, warning).await.ok()?.ok()?
    }
}

/// What all of these need; none if that is not wanted any more.
fn measure(archive: &Archive, ids: Vec<PackageVersion>, hurried: &mpsc::Receiver<()>) -> Option<Need> {
    if ids.len() > MANY && hurried.recv_timeout(BEGIN_AFTER) == Err(RecvTimeoutError::Disconnected) {
        return None;
    }
    let mut need = Need::default();
    for id in ids {
        if hurried.try_recv() == Err(TryRecvError::Disconnected) {
            return None;
        }
        let (bytes, inodes) = size_of(archive, &id).unwrap_or_default();
        need.add(bytes, inodes);
    }
    Some(need)
}

/// The sizes of a package's files together, and how many entries it has.
pub(super) fn size_of(archive: &Archive, id: &PackageVersion) -> Option<(u64, u64)> {
    let scan = pack::scan(&archive.path(id), &Progress::start()).ok()?;
    Some((scan.manifest.bytes(), scan.manifest.entries.len() as u64))
}

/// Whether even the whole source would fit.
fn all_fits(source: &Path, info: &Info) -> bool {
    statvfs(source).is_ok_and(|found| {
        let used = found.blocks().saturating_sub(found.blocks_free()) * found.fragment_size();
        let files = found.files().saturating_sub(found.files_free());
        used <= info.free_bytes && (info.free_inodes == 0 || files <= info.free_inodes)
    })
}

fn told(need: Need, info: &Info) -> Option<String> {
    let short =
        |what: &str| format!("what is to be sent does not fit on the target: {what}; make room there");
    if need.bytes > info.free_bytes {
        return Some(short(&format!("{} are needed, {} are free", size(need.bytes), size(info.free_bytes))));
    }
    // 0: that file system does not count them.
    if info.free_inodes > 0 && need.inodes > info.free_inodes {
        return Some(short(&format!("{} files are needed, {} can be made", need.inodes, info.free_inodes)));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(free_bytes: u64, free_inodes: u64) -> Info {
        Info { clock: 0, free_bytes, free_inodes, hold: None, index: None, purge: None, deleted: vec![] }
    }

    #[test]
    fn what_does_not_fit_is_told_and_what_fits_is_not() {
        let mut need = Need::default();
        need.add(1 << 20, 10);
        assert_eq!(told(need, &info(2 << 20, 10)), None);
        assert_eq!(told(need, &info(2 << 20, 0)), None, "a file system that does not count files");
        assert!(told(need, &info(1 << 20, 10)).unwrap().contains("1.0 MiB are free"));
        assert!(told(need, &info(2 << 20, 9)).unwrap().contains("10 files are needed, 9"));
    }
}
