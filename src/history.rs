//! `blat history`: the ledger of a target, read out of the journal.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::anyhow;
use serde_json::Value;

use crate::config::TargetName;
use crate::failure::{Failure, Needs, Result};
use crate::ledger;
use crate::told::time;

/// What is asked of the journal.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    pub target: &'a TargetName,
    /// As journalctl takes it.
    pub since: Option<&'a str>,
    /// Only what is about this package.
    pub package: Option<&'a str>,
    /// Print the journal's own entries, as JSON.
    pub json: bool,
}

/// Prints the entries, the oldest first.
///
/// # Errors
/// When the journal cannot be read.
pub fn print(asked: &Asked<'_>, out: &mut dyn Write) -> Result<()> {
    let mut journal = journalctl(asked).stdout(Stdio::piped()).spawn();
    let journal = journal.as_mut().map_err(|why| Failure::person(anyhow!("cannot run journalctl: {why}")))?;
    let lines = BufReader::new(journal.stdout.take().expect("it was asked for")).lines();
    for line in lines {
        let line = line.later("cannot read what journalctl says")?;
        let shown = if asked.json { Some(line) } else { serde_json::from_str(&line).ok().and_then(entry) };
        // Whoever reads may have had enough.
        if shown.is_some_and(|shown| writeln!(out, "{shown}").is_err()) {
            let _ = journal.kill();
            let _ = journal.wait();
            return Ok(());
        }
    }
    let ended = journal.wait().later("journalctl did not end")?;
    if ended.success() {
        return Ok(());
    }
    Err(Failure::person(anyhow!("journalctl could not read the journal, as told above ({ended})")))
}

fn journalctl(asked: &Asked<'_>) -> Command {
    let mut command = Command::new("journalctl");
    command.args(["--quiet", "--no-pager", "--output=json", "--all"]);
    if let Some(since) = asked.since {
        command.arg(format!("--since={since}"));
    }
    if let Some(package) = asked.package {
        command.arg(format!("BLAT_PACKAGE={package}"));
    }
    command.arg(format!("BLAT_TARGET={}", asked.target));
    command.args(ledger::ALL.map(|(id, _)| format!("MESSAGE_ID={id}")));
    command
}

/// How many commits of one package are looked at.
const COMMITS_MAX: &str = "5000";

/// A commit by the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    pub target: String,
    pub version: String,
    /// In seconds since 1970.
    pub at: u64,
    /// What for.
    pub cause: String,
}

/// The commits of a package on all targets, the last one first; none where the journal cannot be read.
pub fn commits(package: &str) -> Vec<Commit> {
    let output = Command::new("journalctl")
        .args(["--quiet", "--no-pager", "--output=json", "--reverse", "--lines", COMMITS_MAX])
        .args([format!("MESSAGE_ID={}", ledger::COMMITTED), format!("BLAT_PACKAGE={package}")])
        .stderr(Stdio::null())
        .output();
    let said = output.map(|output| output.stdout).unwrap_or_default();
    let lines = said.split(|byte| *byte == b'\n');
    lines.filter_map(|line| commit(&serde_json::from_slice(line).ok()?)).collect()
}

fn commit(entry: &Value) -> Option<Commit> {
    let at: u64 = text(entry, "__REALTIME_TIMESTAMP")?.parse().ok()?;
    Some(Commit {
        target: text(entry, "BLAT_TARGET")?,
        version: text(entry, "BLAT_VERSION")?,
        at: at / 1_000_000,
        cause: text(entry, "BLAT_CAUSE").unwrap_or_default(),
    })
}

/// A line for people: when, which kind, and the message.
fn entry(entry: Value) -> Option<String> {
    let micros: u64 = text(&entry, "__REALTIME_TIMESTAMP")?.parse().ok()?;
    let at = time(micros / 1_000_000);
    let kind = ledger::word(&text(&entry, "MESSAGE_ID")?)?;
    let message = text(&entry, "MESSAGE").unwrap_or_default();
    let took = text(&entry, "BLAT_USEC").and_then(|took| took.parse::<f64>().ok());
    let took = took.map(|took| format!(", {:.3} s", took / 1e6)).unwrap_or_default();
    let cause = text(&entry, "BLAT_CAUSE").map(|cause| format!(", by {cause}")).unwrap_or_default();
    let message = message.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'");
    Some(format!("{at}  {kind:<15}  {message}{took}{cause}"))
}

/// A field's text: of several of a name, the first; of one that is no UTF-8, what can be read.
fn text(entry: &Value, field: &str) -> Option<String> {
    match entry.get(field)? {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.iter().all(Value::is_u64) => {
            let bytes: Vec<u8> = items.iter().filter_map(|byte| byte.as_u64()?.try_into().ok()).collect();
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        Value::Array(items) => items.first().and_then(Value::as_str).map(str::to_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_the_journal_is_one_line() {
        let found = serde_json::json!({
            "__REALTIME_TIMESTAMP": "1700000000000000",
            "MESSAGE_ID": ledger::COMMITTED,
            "MESSAGE": "committed core/1 (5 bytes)",
            "BLAT_USEC": "1500000",
            "BLAT_CAUSE": "tag",
        });
        let expected =
            "2023-11-14 22:13:20 UTC  committed        committed core/1 (5 bytes), 1.500 s, by tag";
        assert_eq!(entry(found).unwrap(), expected);
    }

    #[test]
    fn a_message_of_several_lines_or_of_bytes_is_still_one_line() {
        let of = |message: Value| {
            entry(serde_json::json!({
                "__REALTIME_TIMESTAMP": "0", "MESSAGE_ID": ledger::PROBLEM, "MESSAGE": message,
            }))
            .unwrap()
        };
        assert!(of("a\nb \u{1b}[31m \"c\"".into()).ends_with("a\\nb \\u{1b}[31m \"c\""));
        assert!(of(serde_json::json!([104, 105, 255])).ends_with("hi\u{fffd}"));
    }

    #[test]
    fn what_is_no_entry_of_the_ledger_is_passed_over() {
        assert_eq!(entry(serde_json::json!({"__REALTIME_TIMESTAMP": "1", "MESSAGE_ID": "x"})), None);
    }
}
