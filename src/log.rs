//! Where words go: to the journal with their fields where standard error is the journal, else to standard error.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use nix::sys::stat::fstat;
use tracing::field::Field;
use tracing_subscriber::fmt::format;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::Verbosity;

/// How wordy it is.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging. `BLAT_LOG`, in the syntax of tracing's filters, wins over `verbosity`.
pub fn start(verbosity: Verbosity) {
    let (filter, handle) = reload::Layer::new(filter(verbosity));
    let _ = FILTER.set(handle);
    let layer = match journal().filter(|_| is_journal(std::io::stderr())) {
        Some(journal) => journal.boxed(),
        None => tracing_subscriber::fmt::layer()
            .fmt_fields(format::debug_fn(words_alone))
            .without_time()
            .with_target(false)
            .with_writer(std::io::stderr)
            .boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
}

/// Has all go to the journal alone, whatever standard error is. False: there is none.
pub fn start_in_journal() -> bool {
    journal().is_some_and(|journal| tracing_subscriber::registry().with(journal).try_init().is_ok())
}

fn journal() -> Option<tracing_journald::Layer> {
    let layer = tracing_journald::layer().ok()?;
    Some(layer.with_field_prefix(None).with_syslog_identifier("blat".into()))
}

/// Whether what is written there goes to the journal, as systemd tells by `JOURNAL_STREAM` (systemd.exec(5)).
/// Who inherited the variable may write elsewhere.
pub fn is_journal(stream: impl AsFd) -> bool {
    std::env::var("JOURNAL_STREAM").is_ok_and(|named| is_named(&named, stream))
}

/// Whether `named`, a device and an inode in decimal, is this stream.
fn is_named(named: &str, stream: impl AsFd) -> bool {
    fstat(stream).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Is as wordy as this from now on.
pub fn set(verbosity: Verbosity) {
    if let Some(Err(why)) = FILTER.get().map(|handle| handle.reload(filter(verbosity))) {
        tracing::warn!("the log stays as wordy as it is: {why}");
    }
}

fn filter(verbosity: Verbosity) -> EnvFilter {
    EnvFilter::try_from_env("BLAT_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,blat={}", tracing::Level::from(verbosity))))
}

/// At a terminal the sentence is enough: the fields stand in it, or are for programs.
fn words_alone(out: &mut format::Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() == "message" { write!(out, "{value:?}") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::fs::MetadataExt;

    #[test]
    fn only_the_stream_that_systemd_names_is_the_journal() {
        let (stream, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let stat = stream.metadata().unwrap();
        let named = format!("{}:{}", stat.st_dev(), stat.st_ino());
        assert!(is_named(&named, &stream));
        assert!(!is_named(&named, &other));
        assert!(!is_named("", &stream));
    }
}
