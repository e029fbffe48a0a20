//! Whether what is to be sent fits on the target: asked before anything is sent.
//!
//! To measure means to go through every file that is to be sent, so it is only done where it can
//! matter: where the file system of the source archive has more in use than the target has free.

use std::path::Path;

use blat_target::message::Info;
use nix::sys::statvfs::statvfs;

use super::plan::Plan;
use super::plan_text::size;

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

/// The warning, if what is to be sent does not fit. `need` measures one package.
pub(super) fn warning(
    plan: &Plan,
    source: &Path,
    info: &Info,
    mut measure: impl FnMut(&blat_target::package::PackageVersion) -> Option<(u64, u64)>,
) -> Option<String> {
    if plan.sends.is_empty() || all_fits(source, info) {
        return None;
    }
    let mut need = Need::default();
    for send in &plan.sends {
        if let Some((bytes, inodes)) = measure(&send.id) {
            need.add(bytes, inodes);
        }
    }
    told(need, info)
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
