//! The command line of `blat-target`, read without a parser's weight.
//!
//! `serve` without options serves whatever archive the host names. With options it is for the forced
//! command of a key that may do nothing else: `--archive` ties the key to one archive, and asks sshd's
//! `SSH_ORIGINAL_COMMAND` what the key was used for, so that whoever wants a shell, a file or SFTP by it
//! is told at once. What was asked is never run.

use std::env::args_os;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

use crate::lanes::Lane;
use crate::{index, install, purge, said, serve};

/// Every command and option; the check of the man page reads it.
pub const HELP: &str = "\
blat-target: the part of blat that runs on a target machine

usage: blat-target serve         serve one session with a host, on standard input and output
           --archive PATH        serve this archive only: for the forced command of a restricted key
           --allow-replace       with --archive: let the host replace this program by its own build
           --said HEX            what the host says first; by a forced command, that of its own line
           --join HEX            be one more channel of a session that is served already; as above
       blat-target index         make the index: the list of every file of the archive
       blat-target find PATTERN  print the lines of the index that have PATTERN in them; `*` in it
                                 stands for anything
       blat-target purge         delete what is marked for long enough
           --dry-run             only say what would be deleted
       blat-target install       set this machine up: units and timers of this user
       blat-target hello         print version, build and architecture on one line, and exit
       blat-target --version     the same
       blat-target --help        print this

options: --archive PATH          (index, find, purge) the archive: absolute, or seen from the user's home;
                                 dpkg_archive if it is not given
";

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Serve(Allowed),
    Index { archive: Vec<u8> },
    Find { archive: Vec<u8>, pattern: Vec<u8> },
    Purge { archive: Vec<u8>, dry_run: bool },
    Install,
    Hello,
    Help,
}

impl Command {
    /// Reads the arguments behind the program's name; none that is not understood.
    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut arguments = arguments.into_iter();
        let verb = arguments.next()?.into_string().ok()?;
        if verb == "serve" {
            return Allowed::parse(&arguments.collect::<Vec<_>>()).map(Self::Serve);
        }
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
            "install" => Self::Install,
            "hello" | "--version" | "-V" => Self::Hello,
            "help" | "--help" | "-h" => Self::Help,
            _ => return None,
        };
        words.is_empty().then_some(command)
    }
}

/// What the command line of a session allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// The one archive that may be served; any, where none is given.
    pub archive: Option<Vec<u8>>,
    /// Whether a session that is tied to an archive may replace the program.
    pub replace: bool,
    /// What the host said first, before standard input.
    pub said: Vec<u8>,
    /// The lane of another process's session that this is to be, if it is not for one of its own.
    pub lane: Option<Lane>,
}

impl Allowed {
    /// Reads what follows `serve`; nothing when it is not understood.
    pub fn parse(arguments: &[OsString]) -> Option<Self> {
        let mut allowed = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_bytes() {
                b"--archive" => allowed.archive = Some(rest.next()?.clone().into_vec()),
                b"--allow-replace" => allowed.replace = true,
                b"--said" => allowed.said = said::decode(rest.next()?.as_bytes())?,
                b"--join" => allowed.lane = Some(Lane::decode(rest.next()?.as_bytes())?),
                other => allowed.archive = Some(other.strip_prefix(b"--archive=")?.to_vec()),
            }
        }
        let pointless = allowed.replace && allowed.archive.is_none();
        (!pointless).then_some(allowed)
    }

    /// Whether the session is a forced command's that is tied to an archive.
    pub fn is_restricted(&self) -> bool {
        self.archive.is_some()
    }

    /// Whether the key was used for something else than a session: for what, in words. `over_ssh`:
    /// sshd started us; `original`: what it says that was asked for.
    pub fn misused(&self, over_ssh: bool, original: Option<&OsStr>) -> Option<String> {
        if !self.is_restricted() || !over_ssh {
            return None;
        }
        let Some(original) = original else { return Some("a shell".into()) };
        let mut words = original.as_bytes().split(|byte| *byte == b' ');
        let program = words.next().unwrap_or_default();
        let is_session = program.ends_with(b"blat-target") && words.next() == Some(b"serve");
        (!is_session).then(|| format!("`{}`", crate::refusal::shown(original.as_bytes())))
    }

    /// Takes over what the host said on the command line that a forced command replaced: what it says
    /// first, or which lane this is. Whether that is understood.
    pub fn hear(&mut self, original: Option<&OsStr>) -> bool {
        if !self.is_restricted() {
            return true;
        }
        let mut words = original.unwrap_or_default().as_bytes().split(|byte| *byte == b' ');
        while let Some(word) = words.next() {
            match word {
                b"--said" => self.said = words.next().and_then(said::decode).unwrap_or_default(),
                b"--join" => {
                    self.lane = words.next().and_then(Lane::decode);
                    return self.lane.is_some();
                }
                _ => {}
            }
        }
        true
    }
}

/// Does what the command line asks for.
pub fn run() -> ExitCode {
    match Command::parse(args_os().skip(1)) {
        Some(Command::Serve(allowed)) => serve::serve(allowed),
        Some(Command::Index { archive }) => index::index(&archive),
        Some(Command::Find { archive, pattern }) => index::find(&archive, &pattern),
        Some(Command::Purge { archive, dry_run }) => purge::purge(&archive, dry_run),
        Some(Command::Install) => install::install(),
        Some(Command::Hello) => hello(),
        Some(Command::Help) => print(HELP),
        None => {
            eprint!("{HELP}");
            ExitCode::from(serve::EXIT_USAGE)
        }
    }
}

fn hello() -> ExitCode {
    let (version, arch) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    match serve::build() {
        Ok(build) => print(&format!("blat-target {version} {build} {arch}\n")),
        Err(why) => {
            eprintln!("blat-target: could not read /proc/self/exe: {why}");
            ExitCode::from(serve::EXIT_LATER)
        }
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(serve::EXIT_LATER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Digest;

    fn parse(line: &str) -> Option<Command> {
        Command::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn commands_and_their_options_are_understood_and_nothing_else_is() {
        let archive = b"dpkg_archive".to_vec();
        assert_eq!(parse("serve"), Some(Command::Serve(Allowed::default())));
        assert_eq!(parse("--version"), Some(Command::Hello));
        let purge = |archive, dry_run| Some(Command::Purge { archive, dry_run });
        assert_eq!(parse("purge"), purge(archive.clone(), false));
        assert_eq!(parse("purge --dry-run --archive /a"), purge(b"/a".to_vec(), true));
        assert_eq!(parse("find -x"), Some(Command::Find { archive, pattern: b"-x".to_vec() }));
        for bad in [
            "",
            "serve x",
            "serve --archive",
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

    fn allowed(words: &[&str]) -> Option<Allowed> {
        Allowed::parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_restricted_session_is_tied_to_its_archive() {
        let tied = Allowed { archive: Some(b"a b".to_vec()), ..Allowed::default() };
        assert_eq!(allowed(&["--archive", "a b"]), Some(tied.clone()));
        assert_eq!(allowed(&["--archive=a b"]), Some(tied.clone()));
        assert_eq!(allowed(&["--allow-replace", "--archive=a b"]), Some(Allowed { replace: true, ..tied }));
        assert_eq!(allowed(&[]), Some(Allowed::default()));
        assert_eq!(allowed(&["--said", "00ff"]), Some(Allowed { said: vec![0, 255], ..Allowed::default() }));
        let bad_said: [&[&str]; 2] = [&["--said"], &["--said", "0"]];
        assert!(bad_said.iter().all(|bad| allowed(bad).is_none()));
        for bad in [&["--archive"][..], &["--allow-replace"], &["x"], &["--nonsense", "x"]] {
            assert_eq!(allowed(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_forced_command_hears_what_was_said_to_the_one_that_it_replaced() {
        let heard = |words: &[&str], original| {
            let mut allowed = allowed(words).unwrap();
            allowed.hear(original);
            allowed.said
        };
        let original = OsStr::new("bin/blat-target serve --said 00ff");
        assert_eq!(heard(&["--archive", "a"], Some(original)), [0, 255]);
        assert_eq!(heard(&["--archive", "a"], Some(OsStr::new("bin/blat-target serve --said x"))), []);
        assert_eq!(heard(&["--archive", "a"], None), []);
        assert_eq!(heard(&["--said", "01"], Some(original)), [1], "no forced command");
    }

    #[test]
    fn a_lane_is_the_one_that_is_named_or_none() {
        let lane = Lane { key: Digest([0xa5; 32]), number: 3 };
        let text = lane.encode();
        assert_eq!((&text[..4], &text[60..]), ("a5a5", "a5a503"));
        assert_eq!(allowed(&["--join", &text]).unwrap().lane, Some(lane));
        let bad = [&text[2..], &format!("{text}00"), "", "x"];
        for bad in bad {
            assert_eq!(allowed(&["--join", bad]), None, "{bad}");
            let mut tied = allowed(&["--archive", "a"]).unwrap();
            assert!(!tied.hear(Some(OsStr::new(&format!("bin/blat-target serve --join {bad}")))), "{bad}");
        }
        let mut tied = allowed(&["--archive", "a"]).unwrap();
        assert!(tied.hear(Some(OsStr::new(&format!("bin/blat-target serve --join {text}")))));
        assert_eq!(tied.lane, Some(lane));
    }

    #[test]
    fn what_a_restricted_key_is_not_for_is_told() {
        let tied = Allowed { archive: Some(b"a".to_vec()), ..Allowed::default() };
        assert_eq!(tied.misused(true, Some(OsStr::new("bin/blat-target serve"))), None);
        assert_eq!(tied.misused(true, None).unwrap(), "a shell");
        assert_eq!(tied.misused(false, None), None);
        for other in ["cat /etc/passwd", "/usr/lib/openssh/sftp-server", "scp -f x", "blat-target; sh"] {
            assert!(tied.misused(true, Some(OsStr::new(other))).unwrap().contains(other));
        }
        assert_eq!(Allowed::default().misused(true, None), None);
    }
}
