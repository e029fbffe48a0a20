//! Whether the release database, or the list, can be asked.

use super::{Finding, Mend};
use crate::config::{Settings, Source};
use crate::release;
use crate::sync::run::is_wanted;

/// Nothing, where the target's file names nothing that it should have.
pub(super) fn look(settings: &Settings) -> Option<Finding> {
    let asks = !settings.releases.is_empty() || !settings.projects.is_empty();
    if !is_wanted(settings) || (settings.release.source == Source::Odbc && !asks) {
        return None;
    }
    let asked =
        release::open(&settings.release).and_then(|mut source| source.projects().map(|all| all.len()));
    Some(match asked {
        Ok(_) if settings.release.source == Source::File => {
            Finding::fine("releases", settings.release.file.display())
        }
        Ok(count) => Finding::fine("releases", format_args!("the database answers, with {count} projects")),
        Err(why) => {
            let is_file = settings.release.source == Source::File;
            let mend = match is_file {
                true => format!("lay the list down in {}", settings.release.file.display()),
                false => "mend the connection in [release], or fill the built-in database: blat release import FILE"
                    .into(),
            };
            Finding::wrong("releases", format_args!("{why:#}"), Mend::Words(mend))
        }
    })
}
