//! How many members there were at the last good synchronisation: what the next one is held against.
//!
//! A file of one number. Where it is missing, or cannot be read, what stands on the target takes its
//! place, so nothing is lost with it but a little freedom to shrink.

use std::fs;
use std::io;
use std::path::Path;

use crate::places::keep;

/// The number on record.
pub(super) fn members(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Puts it on record.
pub(super) fn write(path: &Path, members: u64) -> io::Result<()> {
    keep(path, format!("{members}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("good");
        assert_eq!(members(&path), None);
        write(&path, 7).unwrap();
        assert_eq!(members(&path), Some(7));
        fs::write(&path, "many").unwrap();
        assert_eq!(members(&path), None);
    }
}
