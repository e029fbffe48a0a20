//! What a release source answers for one target: the rows of its current set.
//!
//! It is a whole answer, of one moment if the source can do that, or an error. A name that no release or
//! project has is an error, and so is a connection that is lost between two rows, or an answer without a single
//! row; but where all that is named is closed, `[packages]` is the answer. A row that names no package-version (a
//! NULL, a slash, `..`, a control character) is refused and told, and the others stand.

use std::collections::BTreeMap;

use super::error::ReleaseError;
use super::{RefusedRow, Release, ReleaseSource};
use crate::config::{Packages, ProjectName, ReleaseName, Settings};
use crate::sync::rows::{BadRow, Reason, Rows};

/// What is asked for a target.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub releases: &'a [ReleaseName],
    pub projects: &'a [ProjectName],
    pub packages: &'a Packages,
    /// Whether it is a bucket, which gets nothing of releases that do not go into one.
    pub is_bucket: bool,
}

impl<'a> From<&'a Settings> for Asked<'a> {
    fn from(settings: &'a Settings) -> Self {
        Self {
            releases: &settings.releases,
            projects: &settings.projects,
            packages: &settings.packages,
            is_bucket: settings.destination.bucket().is_some(),
        }
    }
}

impl Asked<'_> {
    /// Whether the target has nothing but `[packages]`, so that no database is needed.
    pub fn names_no_release(&self) -> bool {
        self.releases.is_empty() && self.projects.is_empty()
    }
}

/// A whole answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The open releases, by their ids; a [`Reason::Release`] is a place in this list.
    pub releases: Vec<Release>,
    /// Releases that the target names and that were closed: nothing of them is in the rows.
    pub closed: Vec<Release>,
    /// Open releases of a bucket's that do not go into one: nothing of them is in the rows either.
    pub unsupported: Vec<Release>,
    pub rows: Rows,
    pub refused: Vec<RefusedRow>,
}

impl Answer {
    /// Asks the source. Without one, the answer is what `[packages]` says.
    ///
    /// # Errors
    /// Those of the source, and where it has not a single package-version, why that is.
    pub fn of(source: Option<&mut dyn ReleaseSource>, asked: &Asked<'_>) -> Result<Self, ReleaseError> {
        let mut answer = Self::default();
        if let Some(source) = source {
            source.begin();
            let taken = answer.take(source, asked);
            source.end();
            taken?;
            let is_rest_wanted = answer.is_all_closed(asked) && !asked.packages.is_empty();
            if answer.rows.is_empty() && !is_rest_wanted {
                return Err(answer.nothing(asked));
            }
        }
        for id in asked.packages.iter() {
            let (package, version) = (id.package.as_str(), id.version.as_str());
            if let Err(BadRow::Many(why)) = answer.rows.add(package, version, Reason::Packages) {
                return Err(why.into());
            }
        }
        Ok(answer)
    }

    fn take(&mut self, source: &mut dyn ReleaseSource, asked: &Asked<'_>) -> Result<(), ReleaseError> {
        self.choose(source, asked)?;
        self.take_content(source)
    }

    /// Whether there are releases that the target names, and each is closed. Of projects that is not told: an
    /// answer without any release of theirs may be half of one.
    fn is_all_closed(&self, asked: &Asked<'_>) -> bool {
        let is_open = !self.releases.is_empty() || !self.unsupported.is_empty();
        !is_open && !self.closed.is_empty() && asked.projects.is_empty()
    }

    /// Why there is not a single package-version.
    fn nothing(&self, asked: &Asked<'_>) -> ReleaseError {
        match &self.refused[..] {
            [first, ..] => ReleaseError::AllRefused(self.refused.len(), first.clone()),
            [] if self.is_all_closed(asked) => {
                let closed: Vec<_> = self.closed.iter().map(ToString::to_string).collect();
                ReleaseError::AllClosed(closed.join(", "))
            }
            [] if self.releases.is_empty() && !self.unsupported.is_empty() => ReleaseError::NoneForS3,
            [] => ReleaseError::Empty,
        }
    }

    fn choose(&mut self, source: &mut dyn ReleaseSource, asked: &Asked<'_>) -> Result<(), ReleaseError> {
        let mut found = BTreeMap::new();
        let mut keep = |release: Release| found.insert(release.id, release);
        for name in asked.releases {
            match source.named(name)? {
                release if release.state.is_open() => drop(keep(release)),
                release if self.closed.contains(&release) => (),
                release => self.closed.push(release),
            }
        }
        for name in asked.projects {
            let all = source.of_project(name)?;
            all.into_iter().filter(|release| release.state.is_open()).for_each(|release| drop(keep(release)));
        }
        if asked.is_bucket {
            let (supported, unsupported) = found.into_values().partition(|release| release.s3);
            (self.releases, self.unsupported) = (supported, unsupported);
        } else {
            self.releases = found.into_values().collect();
        }
        // A list is made for its target, and has no flags.
        self.releases.extend(source.unnamed()?);
        Ok(())
    }

    fn take_content(&mut self, source: &mut dyn ReleaseSource) -> Result<(), ReleaseError> {
        for (place, release) in (0..).zip(&self.releases) {
            let (rows, refused) = (&mut self.rows, &mut self.refused);
            source.content(release, &mut |package, version| {
                let (Some(package), Some(version)) = (package, version) else {
                    let why = "package or version is NULL or no UTF-8".to_owned();
                    refused.push(RefusedRow { release: release.to_string(), why });
                    return Ok(());
                };
                match rows.add(package, version, Reason::Release(place)) {
                    Ok(()) => Ok(()),
                    Err(BadRow::Many(why)) => Err(why.into()),
                    Err(BadRow::Name(why)) => {
                        let why = format!("{package:?} {version:?}: {why}");
                        refused.push(RefusedRow { release: release.to_string(), why });
                        Ok(())
                    }
                }
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use blat_target::message::Mend;

    use super::*;
    use crate::release::file::List;
    use crate::release::{Project, State, TakeRow};

    fn list(text: &str) -> Result<List, ReleaseError> {
        List::of(Path::new("packages.txt"), text.to_owned())
    }

    const NOTHING: Asked<'_> =
        Asked { releases: &[], projects: &[], packages: &NO_PACKAGES, is_bucket: false };
    static NO_PACKAGES: Packages = Packages::NONE;

    #[test]
    fn a_list_is_one_release_and_bad_names_are_refused() {
        let list = list("# all\ncore 1.0 # the core\n\nzlib\t2\n../x 1\ncore ..\n");
        let answer = Answer::of(Some(&mut list.unwrap()), &NOTHING).unwrap();
        assert_eq!((answer.rows.len(), answer.refused.len(), answer.releases.len()), (2, 2, 1));
    }

    #[test]
    fn a_list_has_no_releases_and_a_bad_line_names_its_place() {
        let good = list("core 1\n");
        let releases = [ReleaseName::Id(7)];
        let asked = Asked { releases: &releases, ..NOTHING };
        let why = Answer::of(Some(&mut good.unwrap()), &asked).unwrap_err();
        assert!(why.to_string().contains("`7` cannot be had"), "{why}");
        let bad = list("core 1\ncore 1 2\n");
        assert!(bad.unwrap_err().to_string().contains("packages.txt:2: a line is PACKAGE VERSION"));
    }

    #[test]
    fn an_empty_list_is_no_answer() {
        let list = list("# nothing\n");
        assert!(matches!(Answer::of(Some(&mut list.unwrap()), &NOTHING), Err(ReleaseError::Empty)));
        assert!(Answer::of(None, &NOTHING).unwrap().rows.is_empty());
    }

    #[test]
    fn a_list_of_nothing_but_bad_names_needs_a_person_and_names_one() {
        let list = list("../x 1\ncore ..\n");
        let why = Answer::of(Some(&mut list.unwrap()), &NOTHING).unwrap_err();
        assert!(
            why.to_string().contains("the first of 2: ") && why.to_string().contains("\"../x\""),
            "{why}"
        );
        assert_eq!(why.mend(), Mend::Person);
    }

    /// A database of these releases: the name is the whole content.
    struct Releases(Vec<Release>);

    impl Releases {
        fn of(all: &[(&str, State, bool)]) -> Self {
            let release = |(id, (name, state, s3)): (i32, &(&str, State, bool))| Release {
                id,
                project: "Tram".to_owned(),
                name: (*name).to_owned(),
                state: *state,
                s3: *s3,
            };
            Self((1..).zip(all).map(release).collect())
        }
    }

    impl ReleaseSource for Releases {
        fn named(&mut self, name: &ReleaseName) -> Result<Release, ReleaseError> {
            let of = |release: &&Release| *name == ReleaseName::Id(release.id);
            self.0.iter().find(of).cloned().ok_or_else(|| ReleaseError::NoRelease(name.to_string()))
        }

        fn of_project(&mut self, _: &ProjectName) -> Result<Vec<Release>, ReleaseError> {
            Ok(self.0.clone())
        }

        fn projects(&mut self) -> Result<Vec<Project>, ReleaseError> {
            Ok(Vec::new())
        }

        fn unnamed(&mut self) -> Result<Vec<Release>, ReleaseError> {
            Ok(Vec::new())
        }

        fn content(&mut self, release: &Release, take: TakeRow<'_>) -> Result<(), ReleaseError> {
            if release.name.is_empty() { Ok(()) } else { take(Some(&release.name), Some("1")) }
        }
    }

    const BOTH: [ReleaseName; 2] = [ReleaseName::Id(1), ReleaseName::Id(2)];

    #[test]
    fn where_all_named_releases_are_closed_there_is_the_rest_or_a_person_is_needed() {
        let mut source = Releases::of(&[("core", State::Official, false), ("zlib", State::Closed, false)]);
        let asked = Asked { releases: &BOTH, ..NOTHING };
        let why = Answer::of(Some(&mut source), &asked).unwrap_err();
        assert!(why.to_string().contains("are closed: Tram/core, Tram/zlib; name others"), "{why}");
        assert_eq!(why.mend(), Mend::Person);
        let packages = toml::from_str("extra = '1'").unwrap();
        let asked = Asked { packages: &packages, ..asked };
        let answer = Answer::of(Some(&mut source), &asked).unwrap();
        assert_eq!((answer.rows.len(), answer.closed.len()), (1, 2));
    }

    #[test]
    fn what_is_open_and_empty_is_no_answer_whatever_else_is_wanted() {
        let packages = toml::from_str("extra = '1'").unwrap();
        let asked = Asked { releases: &BOTH, packages: &packages, ..NOTHING };
        let mut source = Releases::of(&[("core", State::Official, false), ("", State::Restricted, false)]);
        assert!(matches!(Answer::of(Some(&mut source), &asked), Err(ReleaseError::Empty)));
        let projects = [ProjectName::Id(1)];
        let asked = Asked { releases: &BOTH[..1], projects: &projects, ..asked };
        let mut source = Releases::of(&[("core", State::Official, false)]);
        assert!(matches!(Answer::of(Some(&mut source), &asked), Err(ReleaseError::Empty)));
    }

    #[test]
    fn a_bucket_whose_one_release_is_still_empty_is_not_told_of_flags() {
        let asked = Asked { releases: &BOTH, is_bucket: true, ..NOTHING };
        let of = |s3| Releases::of(&[("", State::InDevelopment, s3), ("zlib", State::InDevelopment, false)]);
        assert!(matches!(Answer::of(Some(&mut of(true)), &asked), Err(ReleaseError::Empty)));
        assert!(matches!(Answer::of(Some(&mut of(false)), &asked), Err(ReleaseError::NoneForS3)));
    }
}
