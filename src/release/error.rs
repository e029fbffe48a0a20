//! What can be wrong with a release source, and whether time or a person mends it.
//!
//! What a driver says is told apart by its SQLSTATE, and by its words where that says too little:
//! SQLite's driver has one state for nearly all, and PostgreSQL's one for all that fails a login.

use std::fmt;
use std::path::PathBuf;

use blat_target::message::Mend;

use super::RefusedRow;
use crate::failure::Failure;

/// What a driver said: its SQLSTATE, and its text without the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    pub state: String,
    pub text: String,
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.text, self.state)
    }
}

/// Why a release source did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error("there is no project {0}")]
    NoProject(String),
    #[error("there is no release {0}")]
    NoRelease(String),
    #[error("the project {project} has no release {release}")]
    NoReleaseInProject { project: String, release: String },
    #[error("a list of package-versions has no releases and projects: `{0}` cannot be had from it")]
    NotInList(String),
    #[error("the release source answered with nothing at all for this target")]
    Empty,
    #[error("all releases that this target names are closed: {0}; name others, or take the target away")]
    AllClosed(String),
    /// How many rows, and the first of them.
    #[error("no row of the release source's answer names a package-version; the first of {0}: {1}")]
    AllRefused(usize, RefusedRow),
    #[error(
        "none of the open releases that this bucket names has its S3 flag set: set it in the release database"
    )]
    NoneForS3,
    #[error("the ODBC driver is missing{}: {words}", install(.package))]
    DriverMissing { package: Option<&'static str>, words: Words },
    #[error("the database refused the login: {0}")]
    Login(Words),
    #[error("there is no database to open (`blat release import` makes the built-in one): {0}")]
    NoDatabase(Words),
    #[error("the database cannot be reached: {0}")]
    Down(Words),
    #[error("the connection was lost in the middle of an answer: {0}")]
    Lost(Words),
    #[error("the database took longer than the timeout: {0}")]
    Slow(Words),
    #[error("the query `{query}` failed: {words}")]
    Query { query: &'static str, words: Words },
    #[error("the database could not answer the query `{query}` now: {words}")]
    NotNow { query: &'static str, words: Words },
    #[error("the query `{query}` returns {found} columns, not {wanted}")]
    Columns { query: &'static str, found: usize, wanted: usize },
    #[error("column {column} of the query `{query}` is {found}, not {wanted}")]
    Type { query: &'static str, column: usize, found: String, wanted: &'static str },
    #[error("column {column} of the query `{query}` has {found}, which is not {wanted}")]
    Value { query: &'static str, column: usize, found: String, wanted: &'static str },
    #[error("a value in the answer to the query `{0}` is longer than {1} bytes")]
    Long(&'static str, usize),
    #[error("cannot read the password file {0}: {1}")]
    Password(PathBuf, std::io::Error),
    #[error("cannot read the list of package-versions {0}: {1}")]
    File(PathBuf, std::io::Error),
    #[error(
        "the list of package-versions {0} is being written: whoever writes it is to make another, and rename that"
    )]
    Changing(PathBuf),
    #[error("{0}:{1}: {2}")]
    Line(PathBuf, usize, String),
    #[error(transparent)]
    Names(#[from] blat_target::names::TooMany),
    #[error("ODBC does not work here: {0}")]
    Odbc(String),
}

fn install(package: &Option<&str>) -> String {
    package.map(|package| format!(" (install the package {package})")).unwrap_or_default()
}

impl ReleaseError {
    /// What mends it.
    pub fn mend(&self) -> Mend {
        match self {
            Self::Empty
            | Self::Down(_)
            | Self::Lost(_)
            | Self::Slow(_)
            | Self::NotNow { .. }
            | Self::Changing(_) => Mend::Later,
            _ => Mend::Person,
        }
    }

    /// What a driver said when it was to log in.
    pub(super) fn of_login(words: Words, driver: &str) -> Self {
        let state = words.state.as_str();
        let said = |text: &str| words.text.to_ascii_lowercase().contains(text);
        if matches!(state, "IM002" | "IM003" | "IM004") || said("can't open lib") || said("no default driver")
        {
            return Self::DriverMissing { package: package_of(driver), words };
        }
        let refused = ["authentication failed", "no password supplied", "access denied", "invalid username"];
        let login = refused.iter().any(|text| said(text)) || said("role") && said("does not exist");
        if state == "28000" || login || said("no pg_hba.conf entry") {
            return Self::Login(words);
        }
        if said("unable to open database") || said("unknown database") || said("cannot open") {
            return Self::NoDatabase(words);
        }
        if said("database") && said("does not exist") || said("connect failed") && said("sqlite") {
            return Self::NoDatabase(words);
        }
        Self::Down(words)
    }

    /// What a driver said of a query.
    pub(super) fn of_query(words: Words, query: &'static str) -> Self {
        let state = words.state.as_str();
        let said = |text: &str| words.text.to_ascii_lowercase().contains(text);
        let lost = [
            "server closed the connection",
            "terminating connection",
            "no connection to the server",
            "lost connection",
            "gone away",
            "broken pipe",
            "connection reset",
        ];
        let lost = lost.iter().any(|text| said(text));
        let slow = ["statement timeout", "max_statement_time", "query execution was interrupted"];
        let slow = slow.iter().any(|text| said(text)) || said("canceling statement");
        if matches!(state, "HYT00" | "HYT01" | "57014") || slow {
            return Self::Slow(words);
        }
        if state.starts_with("08") || state.starts_with("57") || lost || said("could not receive") {
            return Self::Lost(words);
        }
        if said("locked")
            || said("busy")
            || said("disk i/o")
            || state.starts_with("40")
            || state.starts_with("53")
        {
            return Self::NotNow { query, words };
        }
        Self::Query { query, words }
    }
}

/// The Debian package of a driver, by a name that a person gave it.
fn package_of(driver: &str) -> Option<&'static str> {
    let driver = driver.to_ascii_lowercase();
    let known = [
        ("sqlite", "libsqliteodbc"),
        ("postgre", "odbc-postgresql"),
        ("psql", "odbc-postgresql"),
        ("maria", "odbc-mariadb"),
        ("mysql", "odbc-mariadb"),
        ("oracle", "oracle-instantclient-odbc"),
    ];
    known.iter().find(|(word, _)| driver.contains(word)).map(|(_, package)| *package)
}

impl From<ReleaseError> for Failure {
    fn from(why: ReleaseError) -> Self {
        let mend = why.mend();
        Self { mend, cause: anyhow::Error::new(why).context("cannot ask the release source") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(state: &str, text: &str) -> Words {
        Words { state: state.into(), text: text.into() }
    }

    #[test]
    fn a_missing_driver_names_the_package() {
        let said = words("01000", "[unixODBC][Driver Manager]Can't open lib 'SQLite3' : file not found");
        let why = ReleaseError::of_login(said, "Driver=SQLite3;Database=/x");
        assert!(why.to_string().contains("install the package libsqliteodbc"), "{why}");
        assert_eq!(why.mend(), Mend::Person);
    }

    #[test]
    fn what_postgresql_says_of_a_login_is_told_apart() {
        let of = |text: &str| ReleaseError::of_login(words("08001", text), "PostgreSQL");
        let refused = "FATAL:  password authentication failed for user \"blat\"";
        assert!(matches!(of(refused), ReleaseError::Login(_)));
        assert!(matches!(of("FATAL:  database \"x\" does not exist"), ReleaseError::NoDatabase(_)));
        assert!(matches!(of("could not connect to server: Connection refused"), ReleaseError::Down(_)));
        assert!(matches!(of("timeout expired"), ReleaseError::Down(_)));
    }

    #[test]
    fn what_is_lost_or_slow_comes_again_and_what_is_wrong_does_not() {
        let of = |state: &str, text: &str| ReleaseError::of_query(words(state, text), "content").mend();
        assert_eq!(of("08S01", "Communication link failure"), Mend::Later);
        assert_eq!(of("HY000", "FATAL:  terminating connection due to administrator command"), Mend::Later);
        assert_eq!(of("HY000", "[SQLite]database is locked (5)"), Mend::Later);
        assert_eq!(of("HYT00", "timeout"), Mend::Later);
        assert_eq!(of("42P01", "relation \"projects\" does not exist"), Mend::Person);
        assert_eq!(of("HY000", "[SQLite]no such table: projects (1)"), Mend::Person);
        assert_eq!(of("HY000", "[SQLite]file is not a database (26)"), Mend::Person);
    }
}
