//! A release source that is listened to: whoever waits for a whole answer hears of each part of it, and so tells
//! a long answer from none.

use super::{Project, Release, ReleaseError, ReleaseSource, TakeRow};
use crate::config::{ProjectName, ReleaseName};

/// A source, and what is called at each of its answers and rows.
pub struct Heard<F> {
    source: Box<dyn ReleaseSource>,
    heard: F,
}

impl<F: Fn()> Heard<F> {
    /// Listens to `source`.
    pub fn new(source: Box<dyn ReleaseSource>, heard: F) -> Self {
        Self { source, heard }
    }

    fn hear<T>(&mut self, ask: impl FnOnce(&mut dyn ReleaseSource) -> T) -> T {
        let answer = ask(&mut *self.source);
        (self.heard)();
        answer
    }
}

impl<F: Fn()> ReleaseSource for Heard<F> {
    fn begin(&mut self) {
        self.hear(|source| source.begin());
    }

    fn end(&mut self) {
        self.hear(|source| source.end());
    }

    fn named(&mut self, name: &ReleaseName) -> Result<Release, ReleaseError> {
        self.hear(|source| source.named(name))
    }

    fn of_project(&mut self, name: &ProjectName) -> Result<Vec<Release>, ReleaseError> {
        self.hear(|source| source.of_project(name))
    }

    fn projects(&mut self) -> Result<Vec<Project>, ReleaseError> {
        self.hear(|source| source.projects())
    }

    fn unnamed(&mut self) -> Result<Vec<Release>, ReleaseError> {
        self.hear(|source| source.unnamed())
    }

    fn content(&mut self, release: &Release, take: TakeRow<'_>) -> Result<(), ReleaseError> {
        let Self { source, heard } = self;
        source.content(release, &mut |package, version| {
            heard();
            take(package, version)
        })?;
        heard();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;

    use super::*;
    use crate::config::Packages;
    use crate::release::answer::{Answer, Asked};
    use crate::release::file::List;

    #[test]
    fn each_row_and_each_end_is_heard() {
        let heard = |rows: usize| {
            let text = (0..rows).map(|row| format!("core {row}\n")).collect();
            let list = Box::new(List::of(Path::new("packages.txt"), text).unwrap());
            let count = Cell::new(0);
            let mut source = Heard::new(list, || count.set(count.get() + 1));
            let asked = Asked { releases: &[], projects: &[], packages: &Packages::NONE, is_bucket: false };
            assert_eq!(Answer::of(Some(&mut source), &asked).unwrap().rows.len(), rows);
            count.get()
        };
        // It begins, tells of its release, of its content, and ends.
        assert_eq!((heard(1), heard(100)), (4 + 1, 4 + 100));
    }
}
