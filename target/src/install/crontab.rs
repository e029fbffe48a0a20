//! The same without systemd: lines for a crontab.
//!
//! Of the times that systemd takes, the simple ones have a word in a crontab: `[DAYS] [*-*-*] HH:MM[:SS]`, with
//! days as `Mon`, `Monday`, `Mon..Fri` and lists of these.

use std::fmt::Write;
use std::path::Path;

use super::Wishes;

/// As systemd counts them.
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// A line for each verb; for a time that no crontab knows, a comment in front says so.
pub(super) fn lines(program: &Path, wishes: &Wishes) -> String {
    let mut lines = String::new();
    for (verb, at, built_in) in
        [("index", &wishes.index_at, "0 3 * * *"), ("purge", &wishes.purge_at, "0 6 * * 1")]
    {
        let when = when(at);
        if when.is_none() {
            let _ = writeln!(lines, "# a crontab cannot say `{at}`; the built-in time is given");
        }
        let when = when.unwrap_or_else(|| built_in.into());
        let (program, archive) = (word(&program.to_string_lossy()), word(&wishes.archive));
        let _ = writeln!(lines, "{when} {program} {verb} --archive {archive}");
    }
    lines
}

/// The five fields of a crontab, if it can say that time.
fn when(calendar: &str) -> Option<String> {
    let words: Vec<_> = calendar.split_whitespace().filter(|word| *word != "*-*-*").collect();
    let (days, time) = match words[..] {
        [time] => ("*".to_owned(), time),
        [days, time] => (days.split(',').map(self::days).collect::<Option<Vec<_>>>()?.join(","), time),
        _ => return None,
    };
    let mut parts = time.split(':');
    let hour: u8 = parts.next()?.parse().ok().filter(|hour| *hour < 24)?;
    let minute: u8 = parts.next()?.parse().ok().filter(|minute| *minute < 60)?;
    Some(format!("{minute} {hour} * * {days}"))
}

/// The numbers of a day, or of those from one to another, as a crontab has them: Sunday is 0.
fn days(text: &str) -> Option<String> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let days = day(first)?..=day(last)?;
    let numbers: Vec<_> = days.map(|day| ((day + 1) % 7).to_string()).collect();
    (!numbers.is_empty()).then(|| numbers.join(","))
}

/// Which day has this name, whole or its first three letters.
fn day(name: &str) -> Option<usize> {
    DAYS.iter().position(|day| [day, &day[..3]].iter().any(|known| name.eq_ignore_ascii_case(known)))
}

/// One word for the shell, in which cron takes a bare `%` for a line break.
fn word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''").replace('%', "\\%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_times_have_a_word_in_a_crontab() {
        assert_eq!(when("*-*-* 03:00:00").as_deref(), Some("0 3 * * *"));
        assert_eq!(when("Mon *-*-* 06:05:00").as_deref(), Some("5 6 * * 1"));
        assert_eq!(when("Tue,Sat 23:59").as_deref(), Some("59 23 * * 2,6"));
        assert_eq!(when("mon..fri 3:00").as_deref(), Some("0 3 * * 1,2,3,4,5"));
        assert_eq!(when("Wednesday,Sat..Sun 3:00").as_deref(), Some("0 3 * * 3,6,0"));
        for other in ["Fri..Mon 03:00", "Mon-Fri 03:00", "Mondays 03:00", "Mon.. 03:00", "Mon, 03:00"] {
            assert_eq!(when(other), None, "{other}");
        }
        for other in ["daily", "*:0/5", "Mon..Fri 3", "*-*-1 03:00", "25:00", "M\u{e4}r 03:00", ""] {
            assert_eq!(when(other), None, "{other}");
        }
    }

    #[test]
    fn lines_have_the_program_and_the_archive_as_one_word_each() {
        let wishes = Wishes {
            archive: "it's 5%".into(),
            index_at: "*:0/5".into(),
            purge_at: "Mon *-*-* 06:00:00".into(),
        };
        let expected = "\
# a crontab cannot say `*:0/5`; the built-in time is given
0 3 * * * '/b/blat-target' index --archive 'it'\\''s 5\\%'
0 6 * * 1 '/b/blat-target' purge --archive 'it'\\''s 5\\%'
";
        assert_eq!(lines(Path::new("/b/blat-target"), &wishes), expected);
    }
}
