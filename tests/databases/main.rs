//! Releases from real databases through their real drivers: the same test bodies on SQLite,
//! PostgreSQL and MariaDB. Run with `make databases`.

mod servers;

use std::path::Path;
use std::time::Instant;

use blat::config::{Packages, ProjectName, ReleaseName};
use blat::failure::{EXIT_LATER, EXIT_PERSON, Failure};
use blat::release::answer::{Answer, Asked};
use blat::release::import::{Import, import_built_in, list};
use blat::release::odbc::Database;
use blat::release::{Project, Release, ReleaseError, ReleaseSource, TakeRow};
use servers::{Kind, PASSWORD, Server, settings};

macro_rules! on_each {
    ($($body:ident),+ $(,)?) => {
        mod sqlite { $(#[test] fn $body() { super::$body(super::Kind::Sqlite); })+ }
        mod postgresql { $(#[test] fn $body() { super::$body(super::Kind::Postgresql); })+ }
        mod mariadb { $(#[test] fn $body() { super::$body(super::Kind::Mariadb); })+ }
    };
}

on_each!(
    releases_projects_and_their_content_are_found,
    what_changes_in_the_database_changes_in_the_answer,
    what_does_not_exist_is_named,
    bad_queries_and_bad_values_are_told,
    bad_names_are_refused_row_by_row,
    blanks_behind_values_are_no_part_of_them,
    rows_whose_names_are_gone_are_refused,
    what_moves_between_releases_while_they_are_read_is_in_one_of_them,
    a_hundred_thousand_rows,
    a_database_that_is_gone_is_an_error,
    an_import_comes_whole_or_not_at_all,
);

/// 3 projects, 12 releases, of which Bus/3 to Tram/3 are closed.
fn text() -> String {
    let mut text = String::new();
    for project in ["Bus", "Ferry", "Tram"] {
        for (number, state) in (0..).zip(["N", "R", "C", "Y"]) {
            text += &format!("[{project}/{number}] {state}{}\n", if number == 0 { " s3" } else { "" });
            (0..20).for_each(|package| text += &format!("{project}_{package:02} 1.{number}\n"));
            text += "common 1.0\nCommon 1.0\ngrün ß\n";
        }
    }
    text
}

fn import(text: &str) -> Import {
    Import::parse(Path::new("text"), text).unwrap()
}

fn filled(kind: Kind) -> (Server, Database) {
    let server = Server::start(kind);
    let mut database = server.open();
    database.import(&import(&text())).unwrap();
    (server, database)
}

fn ask(database: &mut Database, releases: &[&str], projects: &[&str]) -> Result<Answer, ReleaseError> {
    let release = |name: &&str| match name.split_once('/') {
        Some((project, release)) => {
            ReleaseName::Named { project: project.to_string(), release: release.to_string() }
        }
        None => ReleaseName::Id(name.parse().unwrap()),
    };
    let project =
        |name: &&str| name.parse().map_or_else(|_| ProjectName::Named(name.to_string()), ProjectName::Id);
    let releases: Vec<_> = releases.iter().map(release).collect();
    let projects: Vec<_> = projects.iter().map(project).collect();
    let asked =
        Asked { releases: &releases, projects: &projects, packages: &Packages::NONE, is_bucket: false };
    Answer::of(Some(database), &asked)
}

fn names(answer: &Answer) -> Vec<String> {
    let mut names: Vec<_> = answer.releases.iter().map(ToString::to_string).collect();
    names.sort();
    names
}

fn releases_projects_and_their_content_are_found(kind: Kind) {
    let (_server, mut database) = filled(kind);
    let answer = ask(&mut database, &["Bus/1", "Ferry/3"], &["Tram"]).unwrap();
    assert_eq!(names(&answer), ["Bus/1", "Tram/0", "Tram/1", "Tram/2"]);
    assert_eq!((answer.rows.len(), answer.refused.len()), (4 * 23, 0));
    assert_eq!(answer.closed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["Ferry/3"]);
    let flagged: Vec<_> =
        answer.releases.iter().filter(|release| release.s3).map(|r| r.name.as_str()).collect();
    assert_eq!(flagged, ["0"]);
    // The same by ids.
    let bus = answer.releases.iter().find(|release| release.project == "Bus").unwrap().id.to_string();
    let tram = database.projects().unwrap().into_iter().find(|project| project.name == "Tram").unwrap();
    let again = ask(&mut database, &[&bus], &[&tram.id.to_string()]).unwrap();
    assert_eq!(names(&again), names(&answer));
    let mut rows = Vec::new();
    let mut take = |package: Option<&str>, version: Option<&str>| {
        rows.push(format!("{} {}", package.unwrap(), version.unwrap()));
        Ok(())
    };
    database.content(&again.releases[0], &mut take).unwrap();
    assert!(rows.contains(&"grün ß".to_owned()) && rows.contains(&"Common 1.0".to_owned()), "{rows:?}");
}

fn what_changes_in_the_database_changes_in_the_answer(kind: Kind) {
    let (server, mut database) = filled(kind);
    database.import(&import(&text())).unwrap();
    assert_eq!(list(&mut database, None).unwrap().lines().count(), 12);
    database.import(&import("[Tram/4] N\nnew 1\n[Tram/0] Y\n[Tram/1] N\nonly 1\n")).unwrap();
    let mut later = server.open();
    let answer = ask(&mut later, &["Tram/0"], &["Tram"]).unwrap();
    assert_eq!(names(&answer), ["Tram/1", "Tram/2", "Tram/4"]);
    assert_eq!((answer.rows.len(), answer.closed.len()), (1 + 23 + 1, 1));
    let why = ask(&mut later, &["Tram/0"], &[]).unwrap_err();
    assert!(matches!(&why, ReleaseError::AllClosed(names) if names == "Tram/0"), "{why:?}");
    assert_eq!(Failure::from(why).exit_code(), EXIT_PERSON);
}

fn what_does_not_exist_is_named(kind: Kind) {
    let (_server, mut database) = filled(kind);
    let mut said = |releases: &[&str], projects: &[&str]| {
        let why = ask(&mut database, releases, projects).unwrap_err();
        (why.to_string(), Failure::from(why).exit_code())
    };
    assert_eq!(said(&["4711"], &[]), ("there is no release 4711".into(), EXIT_PERSON));
    assert_eq!(said(&["Nix/0"], &["Tram"]), ("there is no project Nix".into(), EXIT_PERSON));
    assert_eq!(said(&["Tram/9"], &[]), ("the project Tram has no release 9".into(), EXIT_PERSON));
    assert_eq!(said(&[], &["tram"]), ("there is no project tram".into(), EXIT_PERSON));
    assert_eq!(said(&[], &["x' OR 'a'='a"]).1, EXIT_PERSON);
}

fn bad_queries_and_bad_values_are_told(kind: Kind) {
    let (server, _database) = filled(kind);
    let long = "x".repeat(1500);
    let from = "FROM release_tags r WHERE r.rtag_id = ?";
    let release = "r.rtag_id, r.rtag_name, r.rtag_name";
    let cases = [
        ("content", "SELECT nonsense".to_owned(), "the query `content` failed: "),
        ("content", "SELECT a, b FROM no_such_table WHERE c = ?".into(), "the query `content` failed: "),
        ("content", format!("SELECT r.rtag_name {from}"), "the query `content` returns 1 columns, not 2"),
        ("content", format!("SELECT r.rtag_id, r.rtag_name {from}"), "column 1 of the query `content` is "),
        ("content", format!("SELECT '{long}', r.rtag_name {from}"), "a value in the answer to the query"),
        (
            "release",
            format!("SELECT {release}, 'X', 'N' {from}"),
            "column 4 of the query `release` has \"X\"",
        ),
        (
            "release",
            format!("SELECT {release}, 'N', 'Q' {from}"),
            "column 5 of the query `release` has \"Q\"",
        ),
        (
            "release",
            format!("SELECT NULLIF(r.rtag_id, r.rtag_id), r.rtag_name, r.rtag_name, 'N', 'N' {from}"),
            "column 1 of the query `release` has NULL",
        ),
    ];
    for (key, query, start) in cases {
        let settings = server.settings(&format!("queries.{key} = \"\"\"{query}\"\"\"\n"));
        let why = ask(&mut Database::open(&settings).unwrap(), &["1"], &[]).unwrap_err();
        assert!(why.to_string().starts_with(start), "{why}");
        assert_eq!(Failure::from(why).exit_code(), EXIT_PERSON, "{start}");
    }
    let empty =
        server.settings("queries.content = \"SELECT 'a', 'b' FROM projects p WHERE p.proj_id = -1 - ?\"\n");
    let why = ask(&mut Database::open(&empty).unwrap(), &["1"], &[]).unwrap_err();
    assert!(matches!(why, ReleaseError::Empty), "{why}");
    assert_eq!(Failure::from(why).exit_code(), EXIT_LATER);
}

fn bad_names_are_refused_row_by_row(kind: Kind) {
    let (server, mut database) = filled(kind);
    for (from, to) in [("Tram_00", "../etc"), ("Tram_01", ".."), ("Tram_02", "a\nb"), ("Tram_03", "a b")] {
        database
            .run(&format!("UPDATE packages SET pkg_name = '{to}' WHERE pkg_name = '{from}'"), ())
            .unwrap();
    }
    let answer = ask(&mut database, &["Tram/0"], &[]).unwrap();
    assert_eq!((answer.rows.len(), answer.refused.len()), (19, 4));
    assert!(answer.refused.iter().any(|row| row.to_string().contains("\"../etc\"")), "{:?}", answer.refused);
    let nulls = "SELECT NULLIF(k.pkg_name, 'common'), v.pkg_version FROM release_content c \
                 INNER JOIN package_versions v ON v.pv_id = c.pv_id \
                 INNER JOIN packages k ON k.pkg_id = v.pkg_id WHERE c.rtag_id = ?";
    let nulls = server.settings(&format!("queries.content = \"{nulls}\"\n"));
    let answer = ask(&mut Database::open(&nulls).unwrap(), &["Tram/0"], &[]).unwrap();
    assert_eq!(answer.refused.len(), 5);
}

/// As columns of fixed length have them.
fn blanks_behind_values_are_no_part_of_them(kind: Kind) {
    let (server, _database) = filled(kind);
    let settings = server.settings(
        "queries.projects = \"SELECT p.proj_id, 'Tram  ' FROM projects p WHERE p.proj_name = 'Tram'\"\n\
         queries.releases = \"SELECT r.rtag_id, 'Tram  ', '0   ', 'N ', 'Y ' FROM release_tags r \
         WHERE r.proj_id = ? AND r.rtag_name = '0'\"\n\
         queries.content = \"SELECT 'core    ', '1.0 ' FROM release_tags r WHERE r.rtag_id = ?\"\n",
    );
    let answer = ask(&mut Database::open(&settings).unwrap(), &["Tram/0"], &[]).unwrap();
    assert_eq!((names(&answer), answer.releases[0].s3), (vec!["Tram/0".to_owned()], true));
    assert_eq!((answer.rows.len(), answer.refused.len()), (1, 0));
}

fn rows_whose_names_are_gone_are_refused(kind: Kind) {
    let (_server, mut database) = filled(kind);
    let unchecked = match kind {
        Kind::Sqlite => &[][..],
        Kind::Postgresql => &[
            "ALTER TABLE release_content DROP CONSTRAINT release_content_pv_id_fkey",
            "ALTER TABLE package_versions DROP CONSTRAINT package_versions_pkg_id_fkey",
        ],
        Kind::Mariadb => &["SET foreign_key_checks = 0"],
    };
    unchecked.iter().for_each(|statement| database.run(statement, ()).unwrap());
    database.run("DELETE FROM packages WHERE pkg_name = 'Tram_00'", ()).unwrap();
    let pv = "SELECT pkg_id FROM packages WHERE pkg_name = 'Tram_01'";
    database.run(&format!("DELETE FROM package_versions WHERE pkg_id = ({pv})"), ()).unwrap();
    let answer = ask(&mut database, &["Tram/0"], &[]).unwrap();
    assert_eq!((answer.rows.len(), answer.refused.len()), (21, 2));
}

/// The package has moved to the first release.
const AFTER: &str = "[Tram/0] N\none 1\nmoves 1\n[Tram/1] R\ntwo 1\n";

/// A database in which, once one release was read, somebody moves a package to it from the next.
struct Moving<'a> {
    database: &'a mut Database,
    kind: Kind,
    other: Database,
    read: usize,
}

impl ReleaseSource for Moving<'_> {
    fn begin(&mut self) {
        self.database.begin();
    }

    fn end(&mut self) {
        self.database.end();
    }

    fn named(&mut self, name: &ReleaseName) -> Result<Release, ReleaseError> {
        self.database.named(name)
    }

    fn of_project(&mut self, name: &ProjectName) -> Result<Vec<Release>, ReleaseError> {
        self.database.of_project(name)
    }

    fn projects(&mut self) -> Result<Vec<Project>, ReleaseError> {
        self.database.projects()
    }

    fn unnamed(&mut self) -> Result<Vec<Release>, ReleaseError> {
        self.database.unnamed()
    }

    fn content(&mut self, release: &Release, take: TakeRow<'_>) -> Result<(), ReleaseError> {
        self.database.content(release, take)?;
        self.read += 1;
        if self.read == 1 {
            // SQLite's waits for the reader, in vain: nothing has moved then.
            let moved = self.other.import(&import(AFTER));
            assert_eq!(moved.is_ok(), self.kind != Kind::Sqlite, "{moved:?}");
        }
        Ok(())
    }
}

fn what_moves_between_releases_while_they_are_read_is_in_one_of_them(kind: Kind) {
    let (server, mut database) = filled(kind);
    database.import(&import("[Tram/0] N\none 1\n[Tram/1] R\ntwo 1\nmoves 1\n")).unwrap();
    let other = match kind {
        Kind::Sqlite => {
            let path = server.path("rm.db");
            let told = format!("connection = \"Driver=SQLite3;Database={};Timeout=100\"\n", path.display());
            Database::open(&settings(&told)).unwrap()
        }
        _ => server.open(),
    };
    let releases = ["0", "1"]
        .map(|release| ReleaseName::Named { project: "Tram".to_owned(), release: release.to_owned() });
    let asked = Asked { releases: &releases, projects: &[], packages: &Packages::NONE, is_bucket: false };
    let mut moving = Moving { database: &mut database, other, kind, read: 0 };
    let answer = Answer::of(Some(&mut moving), &asked).unwrap();
    assert_eq!((moving.read, answer.rows.len()), (2, 3));
    database.import(&import(AFTER)).expect("nobody reads any more");
}

/// A content of 107,163 rows.
const MANY: &str = "SELECT k.pkg_name, v.pkg_version FROM packages k, package_versions v, \
                    release_tags b WHERE b.rtag_id <= 8 - ?";

fn a_hundred_thousand_rows(kind: Kind) {
    let (server, _database) = filled(kind);
    let settings = server.settings(&format!("queries.content = \"{MANY}\"\n"));
    let mut database = Database::open(&settings).unwrap();
    let release = database.named(&ReleaseName::Id(1)).unwrap();
    let began = Instant::now();
    let mut rows = 0;
    let read = database.content(&release, &mut |_, _| {
        rows += 1;
        Ok(())
    });
    read.unwrap();
    let took = began.elapsed();
    println!("{kind:?}: {rows} rows in {} ms", took.as_millis());
    assert!(rows > 100_000 && took.as_secs() < 10, "{rows} rows in {took:?}");
}

fn a_database_that_is_gone_is_an_error(kind: Kind) {
    let (mut server, mut database) = filled(kind);
    let many = server.settings(&format!("queries.content = \"{MANY}\"\n"));
    let mut reading = Database::open(&many).unwrap();
    let release = reading.named(&ReleaseName::Id(1)).unwrap();
    let mut rows = 0;
    let half = reading.content(&release, &mut |_, _| {
        rows += 1;
        if rows == 1 && kind != Kind::Sqlite {
            server.stop();
        }
        Ok(())
    });
    match half {
        Err(why) => {
            assert!(matches!(why, ReleaseError::Lost(_)), "{why:?}");
            assert_eq!(Failure::from(why).exit_code(), EXIT_LATER);
        }
        // The driver had it all before the first row came.
        Ok(()) => assert!(rows > 100_000 && kind != Kind::Postgresql, "{rows} rows are half an answer"),
    }
    if kind == Kind::Sqlite {
        server.stop();
    } else {
        let why = ask(&mut database, &["1"], &[]).unwrap_err();
        assert!(matches!(why, ReleaseError::Lost(_)), "{why:?}");
    }
    let why = Database::open(&server.settings("")).map(drop).unwrap_err();
    let wanted = if kind == Kind::Sqlite { EXIT_PERSON } else { EXIT_LATER };
    assert!(matches!(why, ReleaseError::Down(_) | ReleaseError::NoDatabase(_)), "{why:?}");
    assert_eq!(Failure::from(why).exit_code(), wanted);
}

fn an_import_comes_whole_or_not_at_all(kind: Kind) {
    let (_server, mut database) = filled(kind);
    let mut broken = import("[Tram/7] N\na 1\n");
    let twice = broken.releases[0].content[0].clone();
    broken.releases[0].content.push(twice);
    database.import(&broken).unwrap_err();
    let mut seen = list(&mut database, Some("Tram")).unwrap();
    assert_eq!(seen.lines().count(), 4, "{seen}");
    database.import(&import("[Tram/7] N\na 1\n")).unwrap();
    seen = list(&mut database, Some("Tram")).unwrap();
    assert!(seen.contains("Tram/7: N in development, 1 package-versions"), "{seen}");
}

#[test]
fn an_import_makes_the_database_however_its_connection_is_spelled() {
    for more in ["", ";", ";NoCreat=1", "; nocreat = 1;", ";NoCreat=yes;Timeout=100", ";NoCreat=0"] {
        let folder = tempfile::tempdir().unwrap();
        let told = format!("Driver=SQLite3;Database={}{more}", folder.path().join("rm.db").display());
        let settings = settings(&format!("connection = \"{told}\"\n"));
        import_built_in(&settings, &import(&text())).unwrap_or_else(|why| panic!("{told}: {why}"));
        let mut database = Database::open(&settings).unwrap_or_else(|why| panic!("{told}: {why}"));
        assert_eq!(list(&mut database, None).unwrap().lines().count(), 12, "{told}");
    }
}

#[test]
fn a_wrong_password_is_told_and_never_shown() {
    for kind in [Kind::Postgresql, Kind::Mariadb] {
        let server = Server::start(kind);
        std::fs::write(server.path("password"), "wr;ong}pw\n").unwrap();
        let why = Database::open(&server.settings("")).map(drop).unwrap_err();
        assert!(matches!(why, ReleaseError::Login(_)), "{why:?}");
        let shown = format!("{why} {why:?}");
        assert!(!shown.contains("wr;ong") && !shown.contains(PASSWORD), "{shown}");
        assert_eq!(Failure::from(why).exit_code(), EXIT_PERSON);
    }
}

#[test]
fn a_slow_query_ends_at_the_timeout() {
    let slow =
        [(Kind::Postgresql, "CAST(pg_sleep(30) AS VARCHAR(9))"), (Kind::Mariadb, "CONCAT('', SLEEP(30))")];
    for (kind, sleep) in slow {
        let server = Server::start(kind);
        let more = format!("timeout = 1\nqueries.projects = \"SELECT 1, {sleep}\"\n");
        let mut database = Database::open(&server.settings(&more)).unwrap();
        let began = Instant::now();
        let why = database.projects().unwrap_err();
        assert!(matches!(why, ReleaseError::Slow(_)), "{why:?}");
        assert!(began.elapsed().as_secs() < 15, "{kind:?}: {:?}", began.elapsed());
        assert_eq!(Failure::from(why).exit_code(), EXIT_LATER);
    }
}

#[test]
fn a_missing_driver_or_data_source_needs_a_person() {
    let sqlite = settings("connection = \"Driver=SQLite9;Database=/tmp/x\"\n");
    let why = Database::open(&sqlite).map(drop).unwrap_err();
    assert!(why.to_string().contains("install the package libsqliteodbc"), "{why}");
    let why = Database::open(&settings("dsn = \"no-such-source\"\n")).map(drop).unwrap_err();
    assert!(matches!(why, ReleaseError::DriverMissing { package: None, .. }), "{why:?}");
    assert_eq!(Failure::from(why).exit_code(), EXIT_PERSON);
}

#[test]
fn a_file_that_is_no_database_needs_a_person_and_none_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rm.db");
    let open = || {
        Database::open(&settings(&format!("connection = \"Driver=SQLite3;Database={}\"\n", path.display())))
    };
    let why = open().map(drop).unwrap_err();
    assert!(matches!(why, ReleaseError::NoDatabase(_)), "{why:?}");
    assert!(!path.exists());
    std::fs::write(&path, "garbage ".repeat(1000)).unwrap();
    let why = open().and_then(|mut database| ask(&mut database, &["1"], &[]).map(drop)).unwrap_err();
    assert_eq!(Failure::from(why).exit_code(), EXIT_PERSON);
}
