//! Logging in: what the driver manager is told, and what of it nobody else is.
//!
//! The password goes from its file into memory, from there into the call that logs in, and nowhere
//! else: it is cut out of whatever a driver says.

use std::path::{Path, PathBuf};

use odbc_api::{Connection, ConnectionOptions, environment};

use super::error::{ReleaseError, Words};
use crate::config::Release as Settings;

/// The name of the systemd credential with the password.
pub(super) const CREDENTIAL: &str = "release-password";

/// What the unit has as the credential where the file that it is loaded from is missing.
const MISSING: &[u8] = b"missing";

/// Whether systemd loaded a credential; where it did not, the file itself says why.
fn is_loaded(credential: &Path) -> bool {
    std::fs::read(credential).is_ok_and(|content| content.trim_ascii() != MISSING)
}

/// A password, which is shown nowhere.
#[derive(Clone, Default)]
pub(super) struct Password(String);

impl Password {
    /// The password of a credential, or of the file that the configuration names; empty for none.
    pub(super) fn read(settings: &Settings) -> Result<Self, ReleaseError> {
        let credential = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let credential = credential.map(|folder| folder.join(CREDENTIAL)).filter(|path| is_loaded(path));
        match credential.as_deref().or(settings.password_file.path()) {
            None => Ok(Self::default()),
            Some(path) => Self::of_file(path),
        }
    }

    fn of_file(path: &Path) -> Result<Self, ReleaseError> {
        let text = std::fs::read_to_string(path).map_err(|why| ReleaseError::Password(path.into(), why))?;
        Ok(Self(text.lines().next().unwrap_or_default().to_owned()))
    }

    /// What a driver said, without the password.
    fn masked(&self, text: &str) -> String {
        let escaped = self.0.replace('}', "}}");
        let text = if self.0.is_empty() { text.to_owned() } else { text.replace(&self.0, "***") };
        let text = if escaped == self.0 { text } else { text.replace(&escaped, "***") };
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// What ODBC says of a failure.
    pub(super) fn words(&self, why: &odbc_api::Error) -> Words {
        match why {
            odbc_api::Error::Diagnostics { record, .. } => Words {
                state: record.state.as_str().to_owned(),
                text: self.masked(&String::from_utf8_lossy(&record.message)),
            },
            other => Words { state: "HY000".into(), text: self.masked(&other.to_string()) },
        }
    }
}

/// Logs in.
pub(super) fn connect(settings: &Settings, password: &Password) -> Result<Connection<'static>, ReleaseError> {
    let environment = environment().map_err(|why| ReleaseError::Odbc(why.to_string()))?;
    let seconds = u32::try_from(settings.timeout.as_secs()).unwrap_or(u32::MAX);
    let options = ConnectionOptions { login_timeout_sec: Some(seconds), ..ConnectionOptions::default() };
    // The length of the text is told as well, but drivers read on to a zero byte (MariaDB's 3.1.15 did,
    // and logged in as `root` and whatever stood behind it in memory): one stands right behind it.
    let told = told(settings, password) + "\0";
    let connected = environment.connect_with_connection_string(&told[..told.len() - 1], options);
    connected.map_err(|why| ReleaseError::of_login(password.words(&why), &source(settings)))
}

/// What a person would call the source: its driver or data source.
fn source(settings: &Settings) -> String {
    if settings.dsn.is_empty() { settings.connection.to_string() } else { settings.dsn.clone() }
}

fn told(settings: &Settings, password: &Password) -> String {
    let mut told = match settings.dsn.as_str() {
        "" => settings.connection.to_string(),
        dsn => format!("DSN={}", braced(dsn)),
    };
    for (key, value) in wanted_by_drivers(&told) {
        told += &format!(";{key}={value}");
    }
    if !settings.user.is_empty() {
        told += &format!(";UID={}", braced(&settings.user));
    }
    if !password.0.is_empty() {
        told += &format!(";PWD={}", braced(&password.0));
    }
    told
}

/// What a driver must be told so that a large answer does not have to fit into memory at once, and so
/// that no empty database is made; unless the connection says otherwise.
fn wanted_by_drivers(told: &str) -> Vec<(&'static str, &'static str)> {
    let told = told.to_ascii_lowercase();
    let mut wanted = Vec::new();
    if told.contains("postgresql") && !told.contains("usedeclarefetch") {
        wanted.push(("UseDeclareFetch", "1"));
    }
    if told.contains("sqlite") && !told.contains("nocreat") {
        wanted.push(("NoCreat", "1"));
    }
    wanted
}

/// A value that has characters of the connection's own.
fn braced(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    if value.chars().all(plain) { value.to_owned() } else { format!("{{{}}}", value.replace('}', "}}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_driver_says_does_not_have_the_password() {
        let password = Password("s}e;cret".into());
        assert_eq!(password.masked("bad PWD={s}}e;cret};\nX s}e;cret"), "bad PWD={***}; X ***");
        assert_eq!(Password::default().masked("a"), "a");
    }

    #[test]
    fn values_cannot_add_keys_of_their_own() {
        assert_eq!(braced("secret"), "secret");
        assert_eq!(braced("a;Database=b}"), "{a;Database=b}}}");
    }

    #[test]
    fn drivers_are_told_what_they_need_unless_the_connection_says_otherwise() {
        assert_eq!(wanted_by_drivers("Driver=PostgreSQL Unicode"), [("UseDeclareFetch", "1")]);
        assert_eq!(wanted_by_drivers("Driver=SQLite3;Database=/x;NoCreat=0"), []);
    }
}
