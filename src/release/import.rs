//! Fills the built-in database from a text, and makes it where it is not there yet.
//!
//! ```text
//! # A release, its state (N, R, C; Y, A, O), and whether it belongs into a bucket; then what is in it.
//! [Tram/1.0] N s3
//! core_devl 2.72.0
//! zlib      1.3.1
//! [Tram/0.9] Y
//! core_devl 2.71.0
//! ```
//!
//! After an import each release of the text is as the text says; other releases are as they were.
//! All of it is one transaction: an import that is interrupted changed nothing.

use std::collections::HashMap;
use std::path::Path;

use blat_target::package::PackageVersion;
use odbc_api::{Cursor, IntoParameter, ParameterCollectionRef, buffers::TextRowSet};

use super::error::ReleaseError;
use super::odbc::{Database, VALUE_MAX};
use super::{ReleaseSource, State};
use crate::config::{ProjectName, Release as Settings};
use crate::places::adopt;

/// The tables, for any of the databases.
pub const SCHEMA: &str = include_str!("../../config/release_manager.sql");

/// A text that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Import {
    pub releases: Vec<Section>,
}

/// One release of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    pub project: String,
    pub name: String,
    pub state: State,
    pub s3: bool,
    pub content: Vec<PackageVersion>,
}

impl Import {
    /// Reads a text; `shown` is what its file is called.
    ///
    /// # Errors
    /// The first line that is none, with its number.
    pub fn parse(shown: &Path, text: &str) -> Result<Self, ReleaseError> {
        let mut import = Self::default();
        for (line, number) in text.lines().zip(1..) {
            let line = line.split('#').next().unwrap_or_default().trim();
            let bad = |why: String| ReleaseError::Line(shown.to_owned(), number, why);
            if line.starts_with('[') {
                let section = section(line).map_err(|why| bad(why.to_owned()))?;
                let twice =
                    |other: &Section| (&other.project, &other.name) == (&section.project, &section.name);
                if import.releases.iter().any(twice) {
                    return Err(bad(format!("{}/{} comes twice", section.project, section.name)));
                }
                import.releases.push(section);
            } else if !line.is_empty() {
                let id = package_version(line).map_err(bad)?;
                let Some(section) = import.releases.last_mut() else {
                    return Err(bad("it belongs to no release: [PROJECT/RELEASE] STATE comes first".into()));
                };
                section.content.push(id);
            }
        }
        import.releases.iter_mut().for_each(|section| {
            section.content.sort_unstable();
            section.content.dedup();
        });
        Ok(import)
    }
}

fn section(line: &str) -> Result<Section, &'static str> {
    const FORM: &str = "a release is [PROJECT/RELEASE] STATE, and perhaps s3";
    let (name, rest) = line.strip_prefix('[').and_then(|line| line.split_once(']')).ok_or(FORM)?;
    let (project, name) = name.split_once('/').ok_or(FORM)?;
    let readable = |name: &str| !name.trim().is_empty() && !name.chars().any(char::is_control);
    if !readable(project) || !readable(name) {
        return Err(FORM);
    }
    let mut words = rest.split_ascii_whitespace();
    let state = words.next().and_then(State::of_letter).ok_or("the state is one of N, R, C, Y, A, O")?;
    let s3 = match (words.next(), words.next()) {
        (None, _) => false,
        (Some("s3"), None) => true,
        _ => return Err(FORM),
    };
    let content = Vec::new();
    Ok(Section { project: project.trim().to_owned(), name: name.trim().to_owned(), state, s3, content })
}

fn package_version(line: &str) -> Result<PackageVersion, String> {
    let mut words = line.split_ascii_whitespace();
    let (Some(package), Some(version), None) = (words.next(), words.next(), words.next()) else {
        return Err("a line is PACKAGE VERSION".into());
    };
    PackageVersion::new(package, version).map_err(|why| why.to_string())
}

/// Makes the built-in database where it is missing, and imports into it.
///
/// # Errors
/// When the configured source is no SQLite database, or cannot be written.
pub fn import_built_in(settings: &Settings, import: &Import) -> Result<(), ReleaseError> {
    let connection = settings.connection.as_str().to_ascii_lowercase();
    if !settings.dsn.is_empty() || !connection.contains("sqlite") {
        let why = "only the built-in SQLite database is filled by blat".to_owned();
        return Err(ReleaseError::Odbc(why));
    }
    let mut making = settings.clone();
    // Of a key that stands there twice, the first counts.
    let told = format!("NoCreat=0;{}", settings.connection.as_str());
    making.connection = told.parse().map_err(|why| ReleaseError::Odbc(format!("{why}")))?;
    Database::open(&making)?.import(import)?;
    let path = told.split(';').find_map(|part| part.strip_prefix("Database=")).map(Path::new);
    if let Some((path, folder)) = path.and_then(|path| Some((path, path.parent()?))) {
        adopt(path, folder);
    }
    Ok(())
}

/// The words of one row.
type Parameter<T> = <T as IntoParameter>::Parameter;

fn word(text: &str) -> Parameter<&str> {
    text.into_parameter()
}

/// What an import calls itself where a query fails.
const QUERY: &str = "import";

impl Database {
    /// Makes what the text says so. The tables are made where there are none.
    ///
    /// # Errors
    /// Those of the database; nothing was changed then.
    pub fn import(&mut self, import: &Import) -> Result<(), ReleaseError> {
        self.connection.set_autocommit(false).map_err(self.failed(QUERY))?;
        let done = self.try_import(import);
        let done = done.and_then(|()| self.connection.commit().map_err(self.failed(QUERY)));
        if done.is_err() {
            // Also where others were reading for too long: what was to be written would keep them out.
            drop(self.connection.rollback());
        }
        self.connection.set_autocommit(true).map_err(self.failed(QUERY))?;
        self.forget();
        done
    }

    fn try_import(&mut self, import: &Import) -> Result<(), ReleaseError> {
        if self.run("SELECT COUNT(*) FROM release_content", ()).is_err() {
            self.connection.rollback().map_err(self.failed(QUERY))?;
            self.make_tables()?;
        }
        let mut projects = Numbers::of(self, "SELECT proj_name, proj_id FROM projects")?;
        let mut packages = Numbers::of(self, "SELECT pkg_name, pkg_id FROM packages")?;
        let mut versions = Numbers::of(
            self,
            "SELECT k.pkg_name, v.pkg_version, v.pv_id \
             FROM package_versions v INNER JOIN packages k ON k.pkg_id = v.pkg_id",
        )?;
        let mut releases = Numbers::of(
            self,
            "SELECT p.proj_name, r.rtag_name, r.rtag_id \
             FROM release_tags r INNER JOIN projects p ON p.proj_id = r.proj_id",
        )?;
        for section in &import.releases {
            let release = self.release(section, &mut projects, &mut releases)?;
            for id in &section.content {
                let pv = self.package_version(id, &mut packages, &mut versions)?;
                self.run("INSERT INTO release_content (rtag_id, pv_id) VALUES (?, ?)", (&release, &pv))?;
            }
        }
        Ok(())
    }

    /// Makes the tables, statement by statement.
    ///
    /// # Errors
    /// Those of the database, such as that they are there already.
    pub fn make_tables(&self) -> Result<(), ReleaseError> {
        let lines: Vec<&str> = SCHEMA.lines().filter(|line| !line.starts_with("--")).collect();
        let text = lines.join("\n");
        text.split(';').filter(|part| !part.trim().is_empty()).try_for_each(|part| self.run(part, ()))
    }

    fn release(
        &self,
        section: &Section,
        projects: &mut Numbers,
        releases: &mut Numbers,
    ) -> Result<i32, ReleaseError> {
        let Section { project, name, .. } = section;
        let (project_id, is_new) = projects.number(vec![project.clone()]);
        if is_new {
            let row = (&project_id, &word(project));
            self.run("INSERT INTO projects (proj_id, proj_name) VALUES (?, ?)", row)?;
        }
        let (id, is_new) = releases.number(vec![project.clone(), name.clone()]);
        let (letter, s3) = (section.state.letter().to_string(), if section.s3 { "Y" } else { "N" });
        let (state, s3) = (word(&letter), word(s3));
        if is_new {
            let insert = "INSERT INTO release_tags (official, s3_flag, rtag_id, proj_id, rtag_name) \
                 VALUES (?, ?, ?, ?, ?)";
            self.run(insert, (&state, &s3, &id, &project_id, &word(name)))?;
        } else {
            let update = "UPDATE release_tags SET official = ?, s3_flag = ? WHERE rtag_id = ?";
            self.run(update, (&state, &s3, &id))?;
            self.run("DELETE FROM release_content WHERE rtag_id = ?", &id)?;
        }
        Ok(id)
    }

    fn package_version(
        &self,
        id: &PackageVersion,
        packages: &mut Numbers,
        versions: &mut Numbers,
    ) -> Result<i32, ReleaseError> {
        let (package, version) = (id.package.as_str(), id.version.as_str());
        let (package_id, is_new) = packages.number(vec![package.to_owned()]);
        if is_new {
            let row = (&package_id, &word(package));
            self.run("INSERT INTO packages (pkg_id, pkg_name) VALUES (?, ?)", row)?;
        }
        let (number, is_new) = versions.number(vec![package.to_owned(), version.to_owned()]);
        if is_new {
            let insert = "INSERT INTO package_versions (pv_id, pkg_id, pkg_version) VALUES (?, ?, ?)";
            self.run(insert, (&number, &package_id, &word(version)))?;
        }
        Ok(number)
    }

    /// Runs a statement whose answer does not matter.
    ///
    /// # Errors
    /// Those of the database.
    pub fn run(&self, statement: &str, parameters: impl ParameterCollectionRef) -> Result<(), ReleaseError> {
        self.connection.execute(statement, parameters, None).map(drop).map_err(self.failed(QUERY))
    }
}

/// The numbers that a table has given to names.
struct Numbers {
    given: HashMap<Vec<String>, i32>,
    last: i32,
}

impl Numbers {
    /// Reads them: names, and the number in the last column.
    fn of(database: &Database, select: &str) -> Result<Self, ReleaseError> {
        let failed = database.failed(QUERY);
        let cursor = database.connection.execute(select, (), None).map_err(&failed)?;
        let mut numbers = Self { given: HashMap::new(), last: 0 };
        let Some(cursor) = cursor else { return Ok(numbers) };
        let columns = select.split(" FROM ").next().unwrap_or_default().matches(',').count() + 1;
        let buffer = TextRowSet::from_max_str_lens(1000, vec![VALUE_MAX; columns]).map_err(&failed)?;
        let mut rows = cursor.bind_buffer(buffer).map_err(&failed)?;
        while let Some(batch) = rows.fetch_with_truncation_check(true).map_err(&failed)? {
            for row in 0..batch.num_rows() {
                let value = |column| batch.at_as_str(column, row).ok().flatten().unwrap_or_default();
                let name: Vec<String> = (0..columns - 1).map(|column| value(column).to_owned()).collect();
                let number = value(columns - 1).parse().unwrap_or_default();
                numbers.last = numbers.last.max(number);
                numbers.given.insert(name, number);
            }
        }
        Ok(numbers)
    }

    /// The number of a name, and whether it is a new one.
    fn number(&mut self, name: Vec<String>) -> (i32, bool) {
        if let Some(number) = self.given.get(&name) {
            return (*number, false);
        }
        self.last += 1;
        self.given.insert(name, self.last);
        (self.last, true)
    }
}

/// The releases of one project or of all, a line for each: id, name, state, S3, how many
/// package-versions.
///
/// # Errors
/// Those of the source.
pub fn list(source: &mut dyn ReleaseSource, project: Option<&str>) -> Result<String, ReleaseError> {
    let projects = match project {
        Some(name) => vec![project_name(name)],
        None => source.projects()?.into_iter().map(|project| ProjectName::Id(project.id)).collect(),
    };
    let mut releases = source.unnamed()?;
    for project in &projects {
        releases.extend(source.of_project(project)?);
    }
    let mut text = String::new();
    for release in releases {
        let mut count = 0;
        source.content(&release, &mut |_, _| {
            count += 1;
            Ok(())
        })?;
        let s3 = if release.s3 { ", s3" } else { "" };
        let state = release.state;
        text += &format!(
            "{:>6} {release}: {} {state}{s3}, {count} package-versions\n",
            release.id,
            state.letter()
        );
    }
    Ok(text)
}

/// A project as someone types it: by its id, or its name.
fn project_name(text: &str) -> ProjectName {
    text.parse().map_or_else(|_| ProjectName::Named(text.to_owned()), ProjectName::Id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_and_their_lines_are_read() {
        let text = "# x\n[Tram/1.0 rc] N s3 # open\ncore 1\ncore 1\nzlib 2 # last\n\n[Bus/0.9] Y\n";
        let import = Import::parse(Path::new("f"), text).unwrap();
        assert_eq!(import.releases.len(), 2);
        assert_eq!((import.releases[0].name.as_str(), import.releases[0].s3), ("1.0 rc", true));
        assert_eq!(import.releases[0].content.len(), 2);
        assert_eq!(import.releases[1].state, State::Official);
    }

    #[test]
    fn bad_lines_name_their_place() {
        for (text, start) in [
            ("core 1", "f:1: it belongs to no release"),
            ("[a/b] N\ncore 1 2", "f:2: a line is PACKAGE VERSION"),
            ("[a/b] N\n../x 1", "f:2: the name \"../x\""),
            ("[a/b] X", "f:1: the state is one of"),
            ("[a] N", "f:1: a release is [PROJECT/RELEASE]"),
            ("[a/b] N\n[a/b] Y", "f:2: a/b comes twice"),
        ] {
            let why = Import::parse(Path::new("f"), text).unwrap_err().to_string();
            assert!(why.starts_with(start), "{why}");
        }
    }
}
