//! The folder of configuration files, and the accepted copies inside it, laid out the same way:
//!
//! ```text
//! /etc/blat/blat.toml             /etc/blat/.accepted/blat.toml
//! /etc/blat/targets/NAME.toml     /etc/blat/.accepted/targets/NAME.toml
//! ```
//!
//! What people edit is the live folder; what everything runs by is the accepted one. It lies on
//! /etc, for the generator reads it when /var may not be mounted yet. Nothing is written here.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::name::{BadName, TargetName};
use super::problem::Problem;

/// One of the two: where it lies, and what it is called in messages.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
    inside: &'static str,
}

/// The texts of a folder at one moment. What cannot be read is there all the same: as a problem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    /// `blat.toml`, where there is one.
    pub defaults: Option<Result<String, Problem>>,
    pub targets: BTreeMap<TargetName, Result<String, Problem>>,
    /// Files whose names are no target's, or the folder itself.
    pub strange: Vec<Problem>,
}

impl Folder {
    /// What people edit, under `root` (`/` but for tests).
    pub fn live(root: &Path) -> Self {
        Self { root: root.to_owned(), inside: "etc/blat" }
    }

    /// What everything reads.
    pub fn accepted(root: &Path) -> Self {
        Self { root: root.to_owned(), inside: "etc/blat/.accepted" }
    }

    /// The file of defaults.
    pub fn defaults(&self) -> PathBuf {
        self.root.join(self.inside).join("blat.toml")
    }

    /// The folder of the targets' files.
    pub fn targets(&self) -> PathBuf {
        self.root.join(self.inside).join("targets")
    }

    /// How many targets have a file here; none where that cannot be read.
    pub fn count(&self) -> usize {
        toml_files(&self.targets()).map_or(0, |files| files.len())
    }

    /// A target's file.
    pub fn target(&self, name: &TargetName) -> PathBuf {
        self.targets().join(format!("{name}.toml"))
    }

    /// The file as the machine itself calls it: without the root that tests put in front.
    pub fn shown(&self, file: &Path) -> PathBuf {
        file.strip_prefix(&self.root).map_or_else(|_| file.to_owned(), |inside| Path::new("/").join(inside))
    }

    /// Reads a file of this folder; a missing one is `None`.
    ///
    /// # Errors
    /// Names the file, when it is there but cannot be read, or is not UTF-8. A link that leads nowhere is there:
    /// what it leads to may only not be mounted.
    pub fn read(&self, file: &Path) -> Result<Option<String>, Problem> {
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(Some(text)),
            Err(error) if is_missing(file, &error) => Ok(None),
            Err(error) => Err(self.unreadable(file, &error)),
        }
    }

    fn unreadable(&self, file: &Path, error: &io::Error) -> Problem {
        if error.kind() == io::ErrorKind::NotFound && file.is_symlink() {
            let problem = Problem::of_file(&self.shown(file), "a symbolic link to what is not there");
            return problem.mend("mount what it leads to, or remove the link");
        }
        Problem::of_file(&self.shown(file), format!("cannot be read: {error}"))
    }

    /// Reads everything. What cannot be read is told in the result, and holds up nothing else.
    pub fn read_all(&self) -> Texts {
        let defaults = self.read(&self.defaults()).transpose();
        let mut texts = Texts { defaults, ..Texts::default() };
        let files = toml_files(&self.targets());
        for file in files.unwrap_or_else(|error| {
            texts.strange.push(self.unreadable(&self.targets(), &error));
            Vec::new()
        }) {
            match self.name_of(&file) {
                Err(problem) => texts.strange.push(problem),
                Ok(name) => {
                    let text = self.read(&file).transpose();
                    texts.targets.extend(text.map(|text| (name, text)));
                }
            }
        }
        texts
    }

    fn name_of(&self, file: &Path) -> Result<TargetName, Problem> {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        stem.parse().map_err(|error: BadName| {
            Problem::of_file(&self.shown(file), error.to_string()).mend("give the file another name")
        })
    }
}

/// The `*.toml` files of a folder, sorted; editors' hidden ones left out. A missing folder has none.
fn toml_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if is_missing(folder, &error) => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut files: Vec<PathBuf> = paths?.into_iter().filter(|path| is_config(path)).collect();
    files.sort();
    Ok(files)
}

fn is_missing(path: &Path, error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound && !path.is_symlink()
}

fn is_config(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.ends_with(b".toml") && !name.starts_with(b".")
}
