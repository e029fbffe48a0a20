//! Where words go: to the journal with their fields when systemd started us, else to the
//! terminal.

use std::fmt;

use tracing::field::Field;
use tracing_subscriber::fmt::format;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::Verbosity;

/// Starts logging. `BLAT_LOG`, in the syntax of tracing's filters, wins over `verbosity`.
pub fn start(verbosity: Verbosity) {
    let filter = EnvFilter::try_from_env("BLAT_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,blat={}", tracing::Level::from(verbosity))));
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

/// At a terminal the sentence is enough: the fields stand in it, or are for programs.
fn words_alone(out: &mut format::Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() == "message" { write!(out, "{value:?}") } else { Ok(()) }
}
