//! Uploads that a run began in parts and did not end: noted when they begin, so that the next run
//! ends those, and no others. What a bucket keeps of an upload costs, and nobody sees it.
//!
//! A kill between the server's answer and the note leaves an upload without a single part.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::places::replace;

/// The note of one target: lines of upload id, a space, and key.
#[derive(Debug)]
pub(super) struct Left {
    file: PathBuf,
    open: Mutex<Vec<Upload>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upload {
    pub(super) id: String,
    pub(super) key: String,
}

impl Left {
    /// The note at `file`, with what an earlier run left in it.
    pub(super) fn of(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = |line: &str| {
            let (id, key) = line.split_once(' ')?;
            Some(Upload { id: id.to_owned(), key: key.to_owned() })
        };
        Self { file: file.to_owned(), open: Mutex::new(text.lines().filter_map(line).collect()) }
    }

    pub(super) fn all(&self) -> Vec<Upload> {
        self.open.lock().expect("no panic under this lock").clone()
    }

    /// Notes an upload that has begun.
    pub(super) fn begun(&self, upload: &Upload) -> io::Result<()> {
        self.change(|open| open.push(upload.clone()))
    }

    /// Forgets one that has ended, well or not.
    pub(super) fn ended(&self, upload: &Upload) -> io::Result<()> {
        self.change(|open| open.retain(|other| other != upload))
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Upload>)) -> io::Result<()> {
        let mut open = self.open.lock().expect("no panic under this lock");
        change(&mut open);
        let text: String = open.iter().map(|upload| format!("{} {}\n", upload.id, upload.key)).collect();
        replace(&self.file, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_and_not_ended_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("uploads");
        let upload = |id: &str| Upload { id: id.into(), key: format!("ci/a b/{id}.zip") };
        let left = Left::of(&file);
        left.begun(&upload("x")).unwrap();
        left.begun(&upload("y")).unwrap();
        left.ended(&upload("x")).unwrap();
        assert_eq!(Left::of(&file).all(), [upload("y")]);
    }
}
