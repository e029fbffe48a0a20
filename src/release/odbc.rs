//! Releases from a database, over ODBC.
//!
//! It is asked four questions, each a query of the configuration, with the parameter bound. All
//! columns are fetched as text, many rows at a time, into a buffer of bounded rows; a value that
//! would not fit is an error, never cut. Blanks behind a value, which columns of fixed length have and no name may
//! have, are left out. A whole answer is read in one transaction, so that what is moved
//! from one release to another meanwhile is in either of them: the databases that are known can do that. Ids
//! are bound as 32 bits, for Oracle's driver knows no more.

use odbc_api::buffers::TextRowSet;
use odbc_api::{Connection, Cursor, DataType, ParameterCollectionRef, ResultSetMetadata};

use super::connect::{Password, connect};
use super::error::ReleaseError;
use super::{Project, Release, ReleaseSource, State, TakeRow};
use crate::config::{ProjectName, Query, Release as Settings, ReleaseName};

/// Rows that are fetched at a time.
const ROWS: usize = 1000;
/// The longest value, in bytes.
pub const VALUE_MAX: usize = 1024;

/// A database that is logged in to.
pub struct Database {
    pub(super) connection: Connection<'static>,
    settings: Settings,
    password: Password,
    projects: Option<Vec<Project>>,
}

/// A row of an answer; a value is `None` where it is NULL or no UTF-8.
type Values<'a> = &'a [Option<&'a str>];

/// A query of the configuration: its key, its text, and what its columns are to be.
struct Asked<'a> {
    key: &'static str,
    text: &'a Query,
    columns: &'static [Column],
}

/// What a column is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    /// A whole number, as a number or as text.
    Id,
    Text,
    /// Text or a number.
    Flag,
}

const PROJECT: &[Column] = &[Column::Id, Column::Text];
const RELEASE: &[Column] = &[Column::Id, Column::Text, Column::Text, Column::Text, Column::Flag];
const CONTENT: &[Column] = &[Column::Text, Column::Text];

impl Database {
    /// Logs in.
    ///
    /// # Errors
    /// Those of the login: each of driver missing, refused, not reachable is told apart.
    pub fn open(settings: &Settings) -> Result<Self, ReleaseError> {
        let password = Password::read(settings)?;
        let connection = connect(settings, &password)?;
        let database = Self { connection, settings: settings.clone(), password, projects: None };
        database.limit_time()?;
        Ok(database)
    }

    /// MariaDB's driver does not keep to a query's timeout: its server is asked to.
    fn limit_time(&self) -> Result<(), ReleaseError> {
        let name = self.connection.database_management_system_name().unwrap_or_default();
        if !name.to_ascii_lowercase().contains("mariadb") {
            return Ok(());
        }
        let limit = format!("SET SESSION max_statement_time = {}", self.settings.timeout.as_secs());
        self.connection.execute(&limit, (), None).map(drop).map_err(self.failed("timeout"))
    }

    /// What has to be run before a transaction, and as its first statement, for all its queries to see the
    /// same: `None` where a transaction does not do that.
    fn one_moment(&self) -> Option<(&'static str, &'static str)> {
        let name = self.connection.database_management_system_name().unwrap_or_default();
        let name = name.to_ascii_lowercase();
        let is = |part: &str| name.contains(part);
        if is("sqlite") {
            Some(("", ""))
        } else if is("postgresql") {
            Some(("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ", ""))
        } else if is("mariadb") || is("mysql") {
            Some(("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ", ""))
        } else if is("oracle") {
            Some(("", "SET TRANSACTION READ ONLY"))
        } else {
            None
        }
    }

    fn try_begin(&self) -> Result<(), odbc_api::Error> {
        let Some((before, first)) = self.one_moment() else { return Ok(()) };
        let run = |statement: &str| match statement {
            "" => Ok(()),
            _ => self.connection.execute(statement, (), None).map(drop),
        };
        run(before)?;
        self.connection.set_autocommit(false)?;
        run(first)
    }

    /// Forgets what was read of a database that has changed.
    pub(super) fn forget(&mut self) {
        self.projects = None;
    }

    /// Says of an ODBC error what it means for this query.
    pub(super) fn failed(&self, query: &'static str) -> impl Fn(odbc_api::Error) -> ReleaseError + '_ {
        move |why| match why {
            odbc_api::Error::TooLargeValueForBuffer { .. } => ReleaseError::Long(query, VALUE_MAX),
            why => ReleaseError::of_query(self.password.words(&why), query),
        }
    }

    fn ask(
        &self,
        asked: &Asked<'_>,
        parameters: impl ParameterCollectionRef,
        mut take: impl FnMut(Values<'_>) -> Result<(), ReleaseError>,
    ) -> Result<(), ReleaseError> {
        let failed = self.failed(asked.key);
        let timeout = usize::try_from(self.settings.timeout.as_secs()).ok();
        let cursor = self.connection.execute(asked.text.as_str(), parameters, timeout).map_err(&failed)?;
        let none = ReleaseError::Columns { query: asked.key, found: 0, wanted: asked.columns.len() };
        let mut cursor = cursor.ok_or(none)?;
        self.check_columns(asked, &mut cursor)?;
        let sizes = asked.columns.iter().map(|_| VALUE_MAX);
        let buffer = TextRowSet::from_max_str_lens(ROWS, sizes).map_err(&failed)?;
        let mut rows = cursor.bind_buffer(buffer).map_err(&failed)?;
        while let Some(batch) = rows.fetch_with_truncation_check(true).map_err(&failed)? {
            for row in 0..batch.num_rows() {
                let mut values = [None; RELEASE.len()];
                for (column, value) in values.iter_mut().enumerate().take(asked.columns.len()) {
                    let text = batch.at_as_str(column, row).ok().flatten();
                    *value = text.map(|text| text.trim_end_matches(' '));
                }
                take(&values[..asked.columns.len()])?;
            }
        }
        Ok(())
    }

    fn check_columns(
        &self,
        asked: &Asked<'_>,
        cursor: &mut impl ResultSetMetadata,
    ) -> Result<(), ReleaseError> {
        let (query, wanted) = (asked.key, asked.columns.len());
        let found = cursor.num_result_cols().map_err(self.failed(query))?;
        let found = usize::try_from(found).unwrap_or_default();
        if found != wanted {
            return Err(ReleaseError::Columns { query, found, wanted });
        }
        for (column, wanted) in (1u16..).zip(asked.columns) {
            let found = cursor.col_data_type(column).map_err(self.failed(query))?;
            if !wanted.takes(found) {
                let (column, found) = (usize::from(column), format!("{found:?}"));
                return Err(ReleaseError::Type { query, column, found, wanted: wanted.name() });
            }
        }
        Ok(())
    }

    fn all_projects(&mut self) -> Result<&[Project], ReleaseError> {
        if self.projects.is_none() {
            let asked = Asked { key: "projects", text: &self.settings.queries.projects, columns: PROJECT };
            let mut found = Vec::new();
            self.ask(&asked, (), |row| {
                found.push(Project { id: id("projects", row, 0)?, name: text("projects", row, 1)? });
                Ok(())
            })?;
            self.projects = Some(found);
        }
        Ok(self.projects.as_deref().unwrap_or_default())
    }

    fn project(&mut self, name: &ProjectName) -> Result<Project, ReleaseError> {
        let is = |project: &&Project| match name {
            ProjectName::Id(id) => project.id == *id,
            ProjectName::Named(name) => project.name == *name,
        };
        let found = self.all_projects()?.iter().find(is).cloned();
        found.ok_or_else(|| ReleaseError::NoProject(name.to_string()))
    }

    fn releases(
        &self,
        key: &'static str,
        text: &Query,
        parameter: i32,
    ) -> Result<Vec<Release>, ReleaseError> {
        let mut found = Vec::new();
        self.ask(&Asked { key, text, columns: RELEASE }, &parameter, |row| {
            found.push(release(key, row)?);
            Ok(())
        })?;
        Ok(found)
    }
}

impl ReleaseSource for Database {
    fn begin(&mut self) {
        // A connection that is lost fails the first query.
        if let Err(why) = self.try_begin() {
            let words = self.password.words(&why);
            tracing::warn!("the release database may change while it is asked: {words}");
        }
    }

    fn end(&mut self) {
        let ended = self.connection.rollback().and_then(|()| self.connection.set_autocommit(true));
        if let Err(why) = ended {
            tracing::debug!("cannot end a transaction: {}", self.password.words(&why));
        }
    }

    fn named(&mut self, name: &ReleaseName) -> Result<Release, ReleaseError> {
        match name {
            ReleaseName::Id(id) => {
                let found = self.releases("release", &self.settings.queries.release, *id)?;
                let found = found.into_iter().find(|release| release.id == *id);
                found.ok_or_else(|| ReleaseError::NoRelease(name.to_string()))
            }
            ReleaseName::Named { project, release } => {
                let all = self.of_project(&ProjectName::Named(project.clone()))?;
                let none = || ReleaseError::NoReleaseInProject {
                    project: project.clone(),
                    release: release.clone(),
                };
                all.into_iter().find(|found| found.name == *release).ok_or_else(none)
            }
        }
    }

    fn of_project(&mut self, name: &ProjectName) -> Result<Vec<Release>, ReleaseError> {
        let project = self.project(name)?;
        self.releases("releases", &self.settings.queries.releases, project.id)
    }

    fn projects(&mut self) -> Result<Vec<Project>, ReleaseError> {
        self.all_projects().map(<[Project]>::to_vec)
    }

    fn unnamed(&mut self) -> Result<Vec<Release>, ReleaseError> {
        Ok(Vec::new())
    }

    fn content(&mut self, release: &Release, take: TakeRow<'_>) -> Result<(), ReleaseError> {
        let asked = Asked { key: "content", text: &self.settings.queries.content, columns: CONTENT };
        self.ask(&asked, &release.id, |row| take(row[0], row[1]))
    }
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Self::Id => "a whole number",
            Self::Text => "text",
            Self::Flag => "Y or N",
        }
    }

    /// Whether a column of this type can be that. Drivers that cannot tell a type say text, or none.
    fn takes(self, found: DataType) -> bool {
        use DataType::{
            BigInt, Char, Decimal, Double, Float, Integer, LongVarchar, Numeric, Other, SmallInt, TinyInt,
            Unknown, Varchar, WChar, WLongVarchar, WVarchar,
        };
        let text = matches!(
            found,
            Char { .. }
                | WChar { .. }
                | Varchar { .. }
                | WVarchar { .. }
                | LongVarchar { .. }
                | WLongVarchar { .. }
                | Unknown
                | Other { .. }
        );
        let whole = matches!(found, BigInt | Integer | SmallInt | TinyInt | Numeric { .. } | Decimal { .. });
        match self {
            Self::Text => text,
            // Oracle's numbers without a precision come as floating ones.
            Self::Id => text || whole || matches!(found, Double | Float { .. }),
            Self::Flag => text || whole || matches!(found, DataType::Bit),
        }
    }
}

fn bad(query: &'static str, row: Values<'_>, column: usize, wanted: &'static str) -> ReleaseError {
    let found = row[column].map_or_else(|| "NULL".to_owned(), |value| format!("{value:?}"));
    ReleaseError::Value { query, column: column + 1, found, wanted }
}

fn id(query: &'static str, row: Values<'_>, column: usize) -> Result<i32, ReleaseError> {
    let value = row[column].and_then(|value| value.trim().parse().ok());
    value.ok_or_else(|| bad(query, row, column, "an id of 32 bits"))
}

fn text(query: &'static str, row: Values<'_>, column: usize) -> Result<String, ReleaseError> {
    let readable = |value: &&str| !value.is_empty() && !value.chars().any(char::is_control);
    let value = row[column].filter(readable);
    value.map(str::to_owned).ok_or_else(|| bad(query, row, column, "a name"))
}

fn release(query: &'static str, row: Values<'_>) -> Result<Release, ReleaseError> {
    // A number that is told as text may have a blank in front, for its sign.
    let trimmed = |column: usize| row[column].map(str::trim).unwrap_or_default();
    let state = State::of_letter(trimmed(3));
    let s3 = match trimmed(4) {
        "Y" | "y" | "1" => true,
        // Oracle has no empty text, only NULL.
        "N" | "n" | "0" | "" => false,
        _ => return Err(bad(query, row, 4, "Y or N")),
    };
    Ok(Release {
        id: id(query, row, 0)?,
        project: text(query, row, 1)?,
        name: text(query, row, 2)?,
        state: state.ok_or_else(|| bad(query, row, 3, "one of N, R, C, Y, A, O"))?,
        s3,
    })
}
