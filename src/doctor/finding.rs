//! What is found: a line that says that it is well, or what is wrong and what mends it.

use std::fmt;

use crate::status::text::plain;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub what: &'static str,
    /// How it is.
    pub is: String,
    /// None, where it is well.
    pub mend: Option<Mend>,
}

/// What mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mend {
    /// A command for root of this machine.
    Here(String),
    /// A command for the transfer user (or root) of the target: whose, and what.
    There(String, String),
    /// What no single command does.
    Words(String),
}

impl Finding {
    pub(super) fn fine(what: &'static str, is: impl fmt::Display) -> Self {
        Self { what, is: is.to_string(), mend: None }
    }

    pub(super) fn wrong(what: &'static str, is: impl fmt::Display, mend: Mend) -> Self {
        Self { what, is: is.to_string(), mend: Some(mend) }
    }

    /// Whether there is something to mend.
    pub fn is_wrong(&self) -> bool {
        self.mend.is_some()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_wrong() { "WRONG" } else { "ok" };
        // What a target says of itself is shown, too.
        let mut lines = self.is.lines().map(plain);
        writeln!(f, "  {verdict:<7} {:<12} {}", self.what, lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| writeln!(f, "{:23}{line}", ""))?;
        match &self.mend {
            None => Ok(()),
            Some(mend) => writeln!(f, "{:10}{}", "", plain(&mend.to_string())),
        }
    }
}

impl fmt::Display for Mend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(command) => write!(f, "mend:        {command}"),
            Self::There(who, command) => write!(f, "mend there:  {command}   (as {who})"),
            Self::Words(words) => write!(f, "to mend it:  {words}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_it_is_and_the_next_what_mends_it() {
        assert_eq!(Finding::fine("key", "there").to_string(), "  ok      key          there\n");
        let wrong = Finding::wrong("key", "open\nto all", Mend::Here("chmod 0600 k".into()));
        let text = "  WRONG   key          open\n                       to all\n          mend:        chmod 0600 k\n";
        assert_eq!(wrong.to_string(), text);
    }

    #[test]
    fn nothing_that_a_target_says_moves_the_cursor() {
        let helper = "blat-target \u{1b}[2J";
        let wrong = Finding::wrong("helper", helper, Mend::Words(helper.into()));
        assert!(!wrong.to_string().contains('\u{1b}'), "{wrong:?}");
    }
}
