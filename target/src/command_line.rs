//! What `blat-target` says of its own command line, and what it takes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Every command and option; the check of the man page reads it.
pub const HELP: &str = "\
blat-target: the part of blat that runs on a target machine

usage: blat-target serve         serve one session with a host, on standard input and output
       blat-target index         make the index: the list of every file of the archive
       blat-target find PATTERN  print the lines of the index that have PATTERN in them; `*` in it
                                 stands for anything
       blat-target purge         delete what is marked for long enough
       blat-target install       set this machine up: units and timers of this user
       blat-target hello         print version, build and architecture on one line, and exit
       blat-target --version     the same
       blat-target --help        print this

options: --archive PATH          (index, find, purge) the archive: absolute, or seen from the user's home;
                                 dpkg_archive if it is not given
         --dry-run               (purge) only say what would be deleted
";

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Serve,
    Index { archive: Vec<u8> },
    Find { archive: Vec<u8>, pattern: Vec<u8> },
    Purge { archive: Vec<u8>, dry_run: bool },
    Install,
    Hello,
    Help,
}

impl Command {
    /// Reads the arguments behind the program's name; none that is not understood.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut arguments = arguments.into_iter();
        let verb = arguments.next()?.into_string().ok()?;
        let (mut archive, mut dry_run, mut words) = (b"dpkg_archive".to_vec(), false, Vec::new());
        let mut has_archive = false;
        while let Some(word) = arguments.next() {
            match word.to_str() {
                Some("--archive") if !has_archive => {
                    archive = arguments.next()?.into_vec();
                    has_archive = true;
                }
                Some("--dry-run") if verb == "purge" && !dry_run => dry_run = true,
                Some(option) if option.starts_with('-') && verb != "find" => return None,
                _ => words.push(word.into_vec()),
            }
        }
        let command = match verb.as_str() {
            "index" => Self::Index { archive },
            "purge" => Self::Purge { archive, dry_run },
            "find" => Self::Find { archive, pattern: words.pop()? },
            _ if has_archive => return None,
            "serve" => Self::Serve,
            "install" => Self::Install,
            "hello" | "--version" | "-V" => Self::Hello,
            "help" | "--help" | "-h" => Self::Help,
            _ => return None,
        };
        words.is_empty().then_some(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Command> {
        Command::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn commands_and_their_options_are_understood_and_nothing_else_is() {
        let archive = b"dpkg_archive".to_vec();
        assert_eq!(parse("serve"), Some(Command::Serve));
        assert_eq!(parse("--version"), Some(Command::Hello));
        let purge = |archive, dry_run| Some(Command::Purge { archive, dry_run });
        assert_eq!(parse("purge"), purge(archive.clone(), false));
        assert_eq!(parse("purge --dry-run --archive /a"), purge(b"/a".to_vec(), true));
        assert_eq!(parse("find -x"), Some(Command::Find { archive, pattern: b"-x".to_vec() }));
        for bad in [
            "",
            "serve x",
            "serve --archive /a",
            "purge x",
            "purge --archive",
            "purge --dry-runs",
            "index --dry-run",
            "find",
            "find a b",
            "nothing",
            "purge --archive a --archive b",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
