//! Where the releases come from: a database, or a file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::layer::{Document, Layer};
use super::name::TargetName;
use super::period::Period;
use super::problem::Problems;
use super::value::{Connection, OptionalPath, PathPattern, Query};

/// The built-in database: a file, reached through SQLite's driver, which must not make it.
const CONNECTION: &str = "Driver=SQLite3;Database=/var/lib/blat/release_manager.db;NoCreat=1";

/// The release source and how it is reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Release {
    pub source: Source,
    /// What the driver manager is told, but for user and password.
    pub connection: Connection,
    /// A data source of odbc.ini, in place of the connection; empty for none.
    pub dsn: String,
    /// Empty for none.
    pub user: String,
    /// A file with the password in its first line; empty for none.
    pub password_file: OptionalPath,
    /// How long logging in, and each query, may take.
    pub timeout: Period,
    /// The list of package-versions, where that is the source.
    #[serde(serialize_with = "as_path")]
    pub file: PathBuf,
    pub queries: Queries,
}

/// What kind of source it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Odbc,
    File,
}

/// What the database is asked. Columns count by their place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Queries {
    /// No parameter; id and name of every project.
    pub projects: Query,
    /// Parameter: a project's id. Id, project's name, name, official state, S3 flag of its releases.
    pub releases: Query,
    /// Parameter: a release's id. The same columns of this release.
    pub release: Query,
    /// Parameter: a release's id. Package and version of all that is in it.
    pub content: Query,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ReleaseLayer {
    pub(super) source: Option<Source>,
    pub(super) connection: Option<Connection>,
    pub(super) dsn: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password_file: Option<OptionalPath>,
    #[serde(deserialize_with = "super::layer::not_zero")]
    pub(super) timeout: Option<Period>,
    pub(super) file: Option<PathPattern>,
    pub(super) queries: QueriesLayer,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct QueriesLayer {
    pub(super) projects: Option<Query>,
    pub(super) releases: Option<Query>,
    pub(super) release: Option<Query>,
    pub(super) content: Option<Query>,
}

fn as_path<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    path.serialize(serializer)
}

fn first<T: Clone>(own: &Option<T>, general: &Option<T>) -> Option<T> {
    own.clone().or_else(|| general.clone())
}

fn built_in<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("what is built in is valid")
}

impl Release {
    /// What holds where no target is meant: `blat.toml` over what is built in.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn of_no_target(root: &Path) -> Result<Self, Problems> {
        let folder = Folder::live(root);
        let file = folder.defaults();
        let document = match folder.read(&file)? {
            Some(text) => Some(Document::defaults(&folder.shown(&file), text)?),
            None => None,
        };
        let none = Layer::default();
        let general = document.as_ref().map_or(&none, |document| &document.layer);
        Ok(Self::merge(&built_in("none"), &none, general))
    }

    pub(super) fn merge(name: &TargetName, own: &Layer, general: &Layer) -> Self {
        let (own, general) = (&own.release, &general.release);
        // A source that a target names itself is not overridden by one for all.
        let dsn = match own.connection {
            Some(_) => own.dsn.clone(),
            None => first(&own.dsn, &general.dsn),
        };
        let file = first(&own.file, &general.file).unwrap_or_else(|| built_in("/etc/blat/packages.txt"));
        Self {
            source: first(&own.source, &general.source).unwrap_or(Source::Odbc),
            connection: first(&own.connection, &general.connection).unwrap_or_else(|| built_in(CONNECTION)),
            dsn: dsn.unwrap_or_default(),
            user: first(&own.user, &general.user).unwrap_or_default(),
            password_file: first(&own.password_file, &general.password_file).unwrap_or_else(|| built_in("")),
            timeout: first(&own.timeout, &general.timeout).unwrap_or(Period::seconds(60)),
            file: file.for_target(name),
            queries: Queries::merge(&own.queries, &general.queries),
        }
    }
}

impl Queries {
    fn merge(own: &QueriesLayer, general: &QueriesLayer) -> Self {
        let shipped = Self::default();
        Self {
            projects: first(&own.projects, &general.projects).unwrap_or(shipped.projects),
            releases: first(&own.releases, &general.releases).unwrap_or(shipped.releases),
            release: first(&own.release, &general.release).unwrap_or(shipped.release),
            content: first(&own.content, &general.content).unwrap_or(shipped.content),
        }
    }
}

/// The shipped queries: SQL that Oracle, PostgreSQL, MariaDB and SQLite all take. A row of a content
/// whose package or version is gone has to be told (as NULL, which is refused): were it left out, its
/// package would be in excess.
impl Default for Queries {
    fn default() -> Self {
        let release = "SELECT r.rtag_id, p.proj_name, r.rtag_name, r.official, r.s3_flag \
                       FROM release_tags r INNER JOIN projects p ON p.proj_id = r.proj_id";
        Self {
            projects: built_in("SELECT p.proj_id, p.proj_name FROM projects p ORDER BY p.proj_name"),
            releases: built_in(&format!("{release} WHERE r.proj_id = ? ORDER BY r.rtag_name")),
            release: built_in(&format!("{release} WHERE r.rtag_id = ?")),
            content: built_in(
                "SELECT k.pkg_name, v.pkg_version FROM release_content c \
                 LEFT JOIN package_versions v ON v.pv_id = c.pv_id \
                 LEFT JOIN packages k ON k.pkg_id = v.pkg_id \
                 WHERE c.rtag_id = ? ORDER BY k.pkg_name, v.pkg_version",
            ),
        }
    }
}
