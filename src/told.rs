//! How times, durations and sizes are told, and texts to whoever reads them.

use std::io::{ErrorKind, Write};
use std::time::SystemTime;

use blat_target::stamp::Stamp;
use jiff::Timestamp;

/// Prints a text. Whoever reads may have had enough of it, as `head` has.
///
/// # Panics
/// When it cannot be written for another reason, as to a full disk.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(why) if why.kind() != ErrorKind::BrokenPipe => panic!("cannot write the output: {why}"),
        _ => {}
    }
}

/// A time for people: `2026-11-27 23:15:09 UTC`. Seconds since 1970, and told as such where no calendar has
/// them.
pub fn time(seconds: u64) -> String {
    for_people(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// The same of a clock's time.
pub fn time_of(at: SystemTime) -> String {
    for_people(Stamp::of(at).0)
}

/// A time for programs and people, as RFC 3339 has it: `2026-11-27T23:15:09Z`. Seconds since 1970, too.
pub fn exact(seconds: i64) -> String {
    in_words(seconds, |time| time.to_string())
}

/// The same of a clock's time, to the second.
pub fn exact_of(at: SystemTime) -> String {
    exact(Stamp::of(at).0)
}

fn for_people(seconds: i64) -> String {
    in_words(seconds, |time| time.strftime("%F %T UTC").to_string())
}

fn in_words(seconds: i64, words: impl FnOnce(Timestamp) -> String) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), words)
}

/// A duration in its two largest units: `3d 4h`, `2m 10s`.
pub fn duration(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Some(first) = units.iter().position(|(unit, _)| seconds >= *unit) else { return "0s".into() };
    let (unit, word) = units[first];
    let whole = format!("{}{word}", seconds / unit);
    match units.get(first + 1).map(|(next, word)| (seconds % unit / next, word)) {
        Some((rest @ 1.., word)) => format!("{whole} {rest}{word}"),
        _ => whole,
    }
}

/// A size for people: three digits at least, powers of 1024.
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 100.0);
    format!("{value:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_time_is_told_in_utc_to_the_second() {
        let at = Duration::from_millis(1_795_821_309_999);
        assert_eq!(time(at.as_secs()), "2026-11-27 23:15:09 UTC");
        assert_eq!(exact(at.as_secs() as i64), "2026-11-27T23:15:09Z");
        assert_eq!(time_of(SystemTime::UNIX_EPOCH + at), time(at.as_secs()));
        assert_eq!(time_of(SystemTime::UNIX_EPOCH - at), "1913-02-04 00:44:50 UTC");
    }

    #[test]
    fn one_that_no_calendar_has_is_told_too() {
        assert_eq!(time(u64::MAX), i64::MAX.to_string());
        assert_eq!(exact(i64::MIN), i64::MIN.to_string());
    }

    #[test]
    fn durations_have_two_units_at_most_and_sizes_three_digits() {
        let all = [0, 59, 130, 3600, 90_000].map(duration);
        assert_eq!(all, ["0s", "59s", "2m 10s", "1h", "1d 1h"]);
        let all = [0, 1023, 1536, 150 << 10, u64::MAX].map(size);
        assert_eq!(all, ["0 B", "1023 B", "1.5 KiB", "150 KiB", "16.0 EiB"]);
    }
}
