//! The values of single keys, each checked as it is read, so that what follows need not ask again.
//!
//! The checks are about harm, not taste: a host cannot be taken for an option of ssh, a path can be
//! written into a unit file, and what stands on the remote command line needs no quoting there.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::name::TargetName;

/// What in a path is replaced by the target's name.
const PLACEHOLDER: &str = "{target}";

/// Why a text is not what its key takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadValue(&'static str);

macro_rules! text_value {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The value as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadValue;

            fn from_str(text: &str) -> Result<Self, BadValue> {
                $check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadValue;

            fn try_from(text: String) -> Result<Self, BadValue> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

text_value!(
    /// A host's name or address, as ssh takes it.
    Host,
    check_host
);
text_value!(
    /// A user's name on the target.
    User,
    check_user
);
text_value!(
    /// A path on the target: absolute, or seen from the user's home.
    RemotePath,
    check_remote_path
);
text_value!(
    /// The helper's folder on the target. It stands in the one remote command line, so it has only
    /// the characters `A-Z a-z 0-9 . _ / -`.
    RemoteBin,
    check_remote_bin
);
text_value!(
    /// An absolute path on this machine, in which `{target}` stands for the target's name.
    PathPattern,
    check_path_pattern
);

text_value!(
    /// An absolute path on this machine, or nothing.
    OptionalPath,
    check_optional_path
);
text_value!(
    /// A query, in the words of the database.
    Query,
    check_query
);
text_value!(
    /// What an ODBC driver manager is told, `KEY=VALUE;…`, but for the password.
    Connection,
    check_connection
);

text_value!(
    /// When something happens again and again, as systemd's `OnCalendar=` takes it.
    Calendar,
    check_calendar
);
text_value!(
    /// A bucket's name.
    BucketName,
    check_bucket_name
);
text_value!(
    /// What the keys of objects begin with: nothing, or a text that ends in a slash.
    Prefix,
    check_prefix
);
text_value!(
    /// A server's address, `http://` or `https://` with host and port, or nothing.
    Endpoint,
    check_endpoint
);
text_value!(
    /// A name that some server knows, or nothing.
    OneWord,
    check_one_word
);

impl Endpoint {
    /// The address, if there is one.
    pub fn address(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(self.0.trim_end_matches('/'))
    }
}

impl OneWord {
    /// The name, if there is one.
    pub fn word(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(&self.0)
    }
}

impl OptionalPath {
    /// The path, if there is one.
    pub fn path(&self) -> Option<&Path> {
        (!self.0.is_empty()).then_some(Path::new(&self.0))
    }
}

impl PathPattern {
    /// The path for this target.
    pub fn for_target(&self, name: &TargetName) -> PathBuf {
        PathBuf::from(self.0.replace(PLACEHOLDER, name.as_str()))
    }

    /// Whether each target gets a path of its own.
    pub fn names_target(&self) -> bool {
        self.0.contains(PLACEHOLDER)
    }
}

fn refuse_if(bad: bool, why: &'static str) -> Result<(), BadValue> {
    if bad { Err(BadValue(why)) } else { Ok(()) }
}

fn check_host(text: &str) -> Result<(), BadValue> {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    refuse_if(text.is_empty(), "the host is empty")?;
    refuse_if(text.starts_with('-'), "a host cannot start with `-`")?;
    refuse_if(!text.chars().all(allowed), "the host has a character that no host has")
}

fn check_user(text: &str) -> Result<(), BadValue> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '$');
    refuse_if(text.is_empty(), "the user is empty")?;
    refuse_if(text.starts_with('-'), "a user cannot start with `-`")?;
    refuse_if(!text.chars().all(allowed), "the user has a character that no user has")
}

/// What no path has, here or there: it could not be written into one line.
fn check_any_path(text: &str) -> Result<(), BadValue> {
    refuse_if(text.is_empty(), "the path is empty")?;
    refuse_if(text.chars().any(char::is_control), "the path has a control character")?;
    refuse_if(
        Path::new(text).components().any(|part| part == Component::ParentDir),
        "the path has a `..` in it",
    )
}

fn check_remote_path(text: &str) -> Result<(), BadValue> {
    check_any_path(text)?;
    refuse_if(text.starts_with('~'), "`~` means nothing here")
}

fn check_remote_bin(text: &str) -> Result<(), BadValue> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-');
    check_any_path(text)?;
    refuse_if(text.starts_with('-'), "the folder cannot start with `-`")?;
    refuse_if(!text.chars().all(allowed), "the folder has a character that a shell could take")
}

fn check_path_pattern(text: &str) -> Result<(), BadValue> {
    check_any_path(text)?;
    refuse_if(!text.starts_with('/'), "the path is not absolute")?;
    refuse_if(text.trim_matches('/').is_empty(), "the path is the root folder itself")?;
    refuse_if(text.contains('\\'), "the path has a backslash, which unit files cannot carry")?;
    refuse_if(text.trim() != text, "the path ends in a space, which unit files cannot carry")?;
    refuse_if(text.replace(PLACEHOLDER, "").contains(['{', '}']), "only `{target}` may stand in braces")
}

fn check_optional_path(text: &str) -> Result<(), BadValue> {
    if text.is_empty() { Ok(()) } else { check_path_pattern(text) }
}

/// Whether it is one only systemd knows, on the target; here it must not break a line of a unit.
fn check_calendar(text: &str) -> Result<(), BadValue> {
    let allowed = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, ' ' | '*' | ':' | ',' | '.' | '/' | '~' | '-' | '_' | '+')
    };
    refuse_if(text.trim().is_empty(), "the time is empty")?;
    refuse_if(!text.chars().all(allowed), "the time has a character that no calendar event has")
}

fn check_query(text: &str) -> Result<(), BadValue> {
    refuse_if(text.trim().is_empty(), "the query is empty")?;
    refuse_if(text.contains('\0'), "the query has a character that no query has")
}

fn check_bucket_name(text: &str) -> Result<(), BadValue> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    refuse_if(text.is_empty(), "the bucket is empty")?;
    refuse_if(
        !text.starts_with(|c: char| c.is_ascii_alphanumeric()),
        "a bucket starts with a letter or digit",
    )?;
    refuse_if(!text.chars().all(allowed), "the bucket has a character that no bucket has")
}

fn check_prefix(text: &str) -> Result<(), BadValue> {
    refuse_if(text.chars().any(char::is_control), "the prefix has a control character")?;
    refuse_if(text.len() > 256, "the prefix is longer than 256 bytes")?;
    refuse_if(text.starts_with('/'), "the prefix starts with a slash, and no key does")?;
    refuse_if(text.contains("//"), "the prefix has two slashes side by side")?;
    refuse_if(!text.is_empty() && !text.ends_with('/'), "the prefix does not end in a slash")
}

fn check_endpoint(text: &str) -> Result<(), BadValue> {
    if text.is_empty() {
        return Ok(());
    }
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let rest = rest.ok_or(BadValue("the address starts with neither http:// nor https://"))?;
    let host = rest.strip_suffix('/').unwrap_or(rest);
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    refuse_if(host.is_empty(), "the address has no host")?;
    refuse_if(!host.chars().all(allowed), "the address has more than host and port")
}

fn check_one_word(text: &str) -> Result<(), BadValue> {
    refuse_if(text.chars().any(|c| c.is_control() || c.is_whitespace()), "it has a space in it")
}

/// Whether a key of a connection holds a password.
fn is_password(part: &str) -> bool {
    let key = part.split('=').next().unwrap_or_default().trim();
    ["pwd", "password"].iter().any(|word| key.eq_ignore_ascii_case(word))
}

fn check_connection(text: &str) -> Result<(), BadValue> {
    refuse_if(text.trim().is_empty(), "the connection is empty")?;
    refuse_if(text.chars().any(char::is_control), "the connection has a control character")?;
    refuse_if(text.split(';').any(is_password), "the password does not belong here: see password_file")
}

/// How much is said in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verbosity {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<Verbosity> for tracing::Level {
    fn from(verbosity: Verbosity) -> Self {
        match verbosity {
            Verbosity::Error => Self::ERROR,
            Verbosity::Warn => Self::WARN,
            Verbosity::Info => Self::INFO,
            Verbosity::Debug => Self::DEBUG,
            Verbosity::Trace => Self::TRACE,
        }
    }
}

/// What a server is asked to encrypt objects with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    /// Whatever the bucket does by itself.
    #[serde(rename = "bucket")]
    Bucket,
    #[serde(rename = "AES256")]
    Aes256,
    #[serde(rename = "aws:kms")]
    Kms,
    #[serde(rename = "aws:kms:dsse")]
    KmsDsse,
}

/// How many of one kind go on at a time: uploads, connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct AtOnce(u8);

impl AtOnce {
    /// The number: 1 to 16.
    pub fn get(self) -> usize {
        self.0.into()
    }
}

impl Default for AtOnce {
    fn default() -> Self {
        Self(4)
    }
}

impl TryFrom<u8> for AtOnce {
    type Error = BadValue;

    fn try_from(number: u8) -> Result<Self, BadValue> {
        refuse_if(!(1..=16).contains(&number), "it is not from 1 to 16").map(|()| Self(number))
    }
}

impl From<AtOnce> for u8 {
    fn from(number: AtOnce) -> Self {
        number.0
    }
}

/// Whether the tag directory is looked at by time as well as when the kernel tells of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Polling {
    /// Where the directory lies on a network file system, whose far writers the kernel cannot see.
    Auto,
    Always,
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_host_cannot_be_an_option() {
        assert!("-oProxyCommand=x".parse::<Host>().is_err());
        assert!("a b".parse::<Host>().is_err());
        assert!("user@host".parse::<Host>().is_err());
        for text in ["site1.example.org", "10.0.0.1", "fe80::1%eth0"] {
            assert!(text.parse::<Host>().is_ok(), "{text}");
        }
    }

    #[test]
    fn the_remote_command_line_needs_no_quoting() {
        for text in ["-bin", "a b", "$HOME/bin", "bin;ls", "~/bin", "../bin", ""] {
            assert!(text.parse::<RemoteBin>().is_err(), "{text}");
        }
        for text in ["bin", ".local/bin", "/opt/blat-1.0/bin"] {
            assert!(text.parse::<RemoteBin>().is_ok(), "{text}");
        }
    }

    #[test]
    fn local_paths_can_be_written_into_units() {
        for text in ["tags", "/", "/a/../b", "/a\nb", "/a\\", "/a ", "/{name}", ""] {
            assert!(text.parse::<PathPattern>().is_err(), "{text:?}");
        }
        let name = "site1".parse().unwrap();
        let path: PathPattern = "/srv/100% \"quick\"/{target}/in".parse().unwrap();
        assert_eq!(path.for_target(&name), Path::new("/srv/100% \"quick\"/site1/in"));
        assert!(path.names_target());
    }

    #[test]
    fn a_password_is_not_taken_with_the_connection() {
        for text in ["Driver=x;PWD=secret", "driver=x; Password = s", "pwd=s", ""] {
            assert!(text.parse::<Connection>().is_err(), "{text}");
        }
        assert!("Driver=SQLite3;Database=/a b;NoCreat=1".parse::<Connection>().is_ok());
    }

    proptest! {
        #[test]
        fn round_trip(text in "/[a-zA-Z0-9 /]{0,20}x") {
            prop_assert_eq!(text.parse::<PathPattern>().unwrap().to_string(), text.clone());
            prop_assert_eq!(text.parse::<RemotePath>().unwrap().to_string(), text);
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = text.parse::<PathPattern>();
            let _ = text.parse::<RemoteBin>();
            let _ = text.parse::<Host>();
        }
    }
}
