//! Where words go: to the journal with their fields when systemd started us, else to the
//! terminal.

use std::fmt;
use std::sync::OnceLock;

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
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let layer = match journal {
        Some(journal) => journal.with_field_prefix(None).with_syslog_identifier("blat".into()).boxed(),
        None => tracing_subscriber::fmt::layer()
            .fmt_fields(format::debug_fn(words_alone))
            .without_time()
            .with_target(false)
            .with_writer(std::io::stderr)
            .boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
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
