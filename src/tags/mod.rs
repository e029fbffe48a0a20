//! Tags: files that ask for one package-version now.
//!
//! A tag's name is all of it: `PACKAGE::VERSION`. What the file holds is not read.

mod glance;
mod lines;
mod queue;
pub mod writer;

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use blat_target::package::{NameError, PackageVersion};

pub use glance::{Glance, Rejected, rejected};
pub use queue::{Claim, Queue, Waiting, WaitsFor};

/// What stands between package and version in a tag's name.
const SEPARATOR: &str = "::";

/// A request for one package-version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub PackageVersion);

/// Has the tags that were dropped into `directory` stand there after a power cut, too.
pub fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Why a file's name is no tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    #[error("{0:?} is not of the form PACKAGE::VERSION")]
    Form(String),
    #[error("{0:?} is no tag: {1}")]
    Name(String, NameError),
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let (package, version) = text.split_once(SEPARATOR).ok_or_else(|| TagError::Form(text.to_owned()))?;
        let id = PackageVersion::new(package, version);
        id.map(Self).map_err(|why| TagError::Name(text.to_owned(), why))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{SEPARATOR}{}", self.0.package, self.0.version)
    }
}

impl Tag {
    /// The tag that a file of this name is.
    pub fn of_file(name: &OsStr) -> Result<Self, TagError> {
        std::str::from_utf8(name.as_bytes())
            .map_err(|_| TagError::Form(name.to_string_lossy().into_owned()))?
            .parse()
    }

    /// Drops the tag into `directory`, for the group to remove too; the file's path.
    ///
    /// A tag has no content, so that making the file is all of it and it is never seen half. One that lies there
    /// already, perhaps another user's, is as good as a new one: whoever claims it does so later than now.
    ///
    /// # Errors
    /// Those of the directory, and that something lies in the tag's place that is no file.
    pub fn drop_into(&self, directory: &Path) -> io::Result<PathBuf> {
        let path = directory.join(self.to_string());
        match File::options().write(true).create_new(true).mode(0o664).open(&path) {
            Err(why) if why.kind() == io::ErrorKind::AlreadyExists => match fs::symlink_metadata(&path) {
                Ok(lies) if lies.is_file() => Ok(path),
                Ok(_) => Err(io::Error::other(format!("there is a {self} in it that is no file"))),
                // It was claimed just now.
                Err(why) if why.kind() == io::ErrorKind::NotFound => self.drop_into(directory),
                Err(why) => Err(why),
            },
            made => made.map(|_| path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn malformed_names_are_no_tags() {
        for bad in ["", "core", "core::", "::1.0", "core::1::0", "../x::1", "a/b::1", "core::..", "a b::1"] {
            assert!(bad.parse::<Tag>().is_err(), "{bad:?} was taken");
        }
        assert!(Tag::of_file(OsStr::from_bytes(b"core::\xff")).is_err());
    }

    #[test]
    fn a_tag_of_another_user_that_still_lies_there_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let tag: Tag = "core::1.0".parse().unwrap();
        let path = tag.drop_into(folder.path()).unwrap();
        // Root may write to another's file all the same: it is told by what stays in it.
        fs::write(&path, "theirs").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
        assert_eq!(tag.drop_into(folder.path()).unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
    }

    #[test]
    fn what_is_no_file_in_a_tags_place_is_told_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (fifo, directory): (Tag, Tag) = ("core::1.0".parse().unwrap(), "core::2.0".parse().unwrap());
        mkfifo(&folder.path().join(fifo.to_string()), Mode::S_IRWXU).unwrap();
        fs::create_dir(folder.path().join(directory.to_string())).unwrap();
        for tag in [fifo, directory] {
            let told = tag.drop_into(folder.path()).unwrap_err().to_string();
            assert_eq!(told, format!("there is a {tag} in it that is no file"));
        }
    }

    proptest! {
        #[test]
        fn tags_print_as_they_parse(package in "[a-zA-Z0-9_+-]{1,20}", version in "[a-zA-Z0-9_.+-]{1,20}") {
            prop_assume!(!version.starts_with('.'));
            let text = format!("{package}::{version}");
            prop_assert_eq!(text.parse::<Tag>().unwrap().to_string(), text);
        }
    }
}
