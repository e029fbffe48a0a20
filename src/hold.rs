//! A person holds all deletion at a target back, and ends that.
//!
//! The hold stands on the target, where it counts at once, for a session's deletions and for the
//! target's own purge alike. It stands here too: then a target that cannot be reached now is told by the
//! next synchronisation, before anything is deleted there. A bucket has no such place, so a
//! synchronisation looks here before each object that it deletes.

use std::fs;
use std::path::Path;

use blat_target::message::Info;

use crate::channel::{Channel, Purpose};
use crate::config::Settings;
use crate::failure::{Failure, Needs, Result};
use crate::places::{Places, replace_for_good};
use crate::report::{Report, Reporter};
use crate::session::Early;

/// Holds deletion back, for this reason.
///
/// # Errors
/// When the target cannot be told: then the hold counts for this master alone.
pub async fn hold(settings: &Settings, places: &Places, helper: &Path, reason: &str) -> Result<()> {
    let path = places.hold();
    replace_for_good(&path, format!("{reason}\n").as_bytes())
        .person(format!("cannot write {}: run as root or as the user blat", path.display()))?;
    say(settings, places, Some(reason.to_owned()));
    let name = &settings.name;
    if settings.destination.bucket().is_some() {
        println!("this master deletes nothing in {name} any more, until `blat release-hold {name}`");
        return Ok(());
    }
    let told = tell(settings, places, helper, Some(reason.to_owned())).await;
    told.map_err(|failure| {
        failure.context(format!(
            "this master deletes nothing at {name} any more, but the target could not be told: \
             its own purge, if it has one, may still delete"
        ))
    })?;
    println!("nothing is deleted at {name} any more, until `blat release-hold {name}`");
    Ok(())
}

/// Ends the hold.
///
/// # Errors
/// When the target cannot be told: then the hold still counts there.
pub async fn release(settings: &Settings, places: &Places, helper: &Path) -> Result<()> {
    let path = places.hold();
    match fs::remove_file(&path) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
            return Err(why)
                .person(format!("cannot remove {}: run as root or as the user blat", path.display()));
        }
        _ => {}
    }
    let name = &settings.name;
    if settings.destination.bucket().is_some() {
        say(settings, places, None);
        println!("deletion in {name} is not held back any more");
        return Ok(());
    }
    let told = tell(settings, places, helper, None).await;
    told.map_err(|failure| {
        failure.context(format!("deletion at {name} is still held back, for the target could not be told"))
    })?;
    say(settings, places, None);
    println!("deletion at {name} is not held back any more");
    Ok(())
}

/// For the ledger.
fn say(settings: &Settings, places: &Places, reason: Option<String>) {
    Reporter::new(settings.name.as_str(), &places.report).tell(Report::Held { reason });
}

async fn tell(settings: &Settings, places: &Places, helper: &Path, reason: Option<String>) -> Result<Info> {
    let mut reporter = Reporter::to_the_log(settings.name.as_str());
    let mut channel =
        Channel::open(settings, places, helper, &mut reporter, Purpose::Tags, Early::Nothing).await?;
    if !channel.session.ages() {
        channel.drop_session().await;
        return Err(Failure::person(anyhow::anyhow!("the helper there is too old to know of it")));
    }
    let told = channel.session.hold(reason).await;
    match told {
        Ok(info) => {
            channel.close().await;
            Ok(info)
        }
        Err(failure) => {
            channel.drop_session().await;
            Err(failure)
        }
    }
}
