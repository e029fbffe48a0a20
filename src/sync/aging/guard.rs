//! The guards: what makes an answer of the release source too doubtful to mark or delete anything.
//!
//! A query that fails ends the run before there is anything to decide, so it is not among them.

use crate::config::Percent;

/// Why nothing is marked or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Guard {
    #[error("there is nothing that the target should have")]
    Empty,
    #[error("the release source has {0} rows that name no package-version")]
    Rows(u64),
    /// There were so many members at the last good synchronisation, and there are so many now.
    #[error(
        "the target should have {now} package-versions, {before} before: more than aging.max_shrink less"
    )]
    Shrunk { before: u64, now: u64 },
}

impl Guard {
    /// Looks at an answer that came to `members`, with so many rows that were refused. `before` is how
    /// many there were at the last good synchronisation; where there was none, how many stand on the
    /// target. `accept`: a person says that it is meant to shrink.
    pub fn look(members: u64, refused: u64, before: u64, most: Percent, accept: bool) -> Option<Self> {
        let left = u128::from(100 - most.of_a_hundred());
        if members == 0 {
            Some(Self::Empty)
        } else if refused > 0 {
            Some(Self::Rows(refused))
        } else if !accept && u128::from(members) * 100 < u128::from(before) * left {
            Some(Self::Shrunk { before, now: members })
        } else {
            None
        }
    }

    /// It, and what a person does about it, for this target.
    pub fn with_mend(&self, target: &str) -> String {
        format!("{self}; {}", self.mend(target))
    }

    /// What a person does about it, for this target.
    fn mend(&self, target: &str) -> String {
        match self {
            Self::Empty => format!(
                "see which releases and projects {target} names, and whether they have anything in them; \
                 `aging.mode = \"none\"` and emptying the archive by hand is the way to an empty target"
            ),
            Self::Rows(_) => "correct them in the database, as told above".into(),
            Self::Shrunk { .. } => {
                format!("if that is meant, say so once: `blat sync --accept-shrink {target}`")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(members: u64, refused: u64, before: u64, most: u8, accept: bool) -> Option<Guard> {
        Guard::look(members, refused, before, Percent::new(most).unwrap(), accept)
    }

    #[test]
    fn a_set_that_is_empty_or_has_bad_rows_is_doubtful_whatever_a_person_says() {
        assert_eq!(look(0, 0, 0, 100, true), Some(Guard::Empty));
        assert_eq!(look(5, 2, 5, 20, true), Some(Guard::Rows(2)));
    }

    #[test]
    fn a_set_may_shrink_by_so_much_and_no_more() {
        assert_eq!(look(80, 0, 100, 20, false), None);
        assert_eq!(look(79, 0, 100, 20, false), Some(Guard::Shrunk { before: 100, now: 79 }));
        assert_eq!(look(79, 0, 100, 20, true), None);
        assert_eq!(look(99, 0, 100, 0, false), Some(Guard::Shrunk { before: 100, now: 99 }));
        assert_eq!(look(1, 0, u64::MAX, 100, false), None);
        assert_eq!(look(500, 0, 100, 20, false), None, "growing is no harm");
    }
}
