//! A period of time as people write it: `90`, `"90s"`, `"1h10m"`, `"7d"`.
//!
//! Whole seconds. Units `d h m s`, each at most once, the largest first; a number alone is seconds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// The longest period, in seconds: 100 years. Longer is a slip, and would overflow systemd's clock.
const LONGEST: u64 = 100 * 366 * 86_400;

/// A period in whole seconds, at most 100 years. May be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(u64);

/// Why a text is no period.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPeriod {
    #[error("`{0}` is not a period")]
    Form(String),
    #[error("`{0}` is not a period: each unit once at most, the largest first")]
    Order(String),
    #[error("the period is longer than 100 years")]
    Long,
}

impl Period {
    /// A period of so many seconds.
    ///
    /// # Errors
    /// When it is longer than 100 years.
    pub fn from_secs(seconds: u64) -> Result<Self, BadPeriod> {
        if seconds > LONGEST {
            return Err(BadPeriod::Long);
        }
        Ok(Self(seconds))
    }

    /// The same in seconds.
    pub fn as_secs(self) -> u64 {
        self.0
    }

    /// Whether it is no time at all.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// A built-in period, known to be in bounds.
    pub(crate) const fn seconds(seconds: u64) -> Self {
        Self(seconds)
    }
}

impl From<Period> for Duration {
    fn from(period: Period) -> Self {
        Duration::from_secs(period.0)
    }
}

/// Takes one `123u` off the front: the number, the unit's place in [`UNITS`] if one is named, the rest.
fn number_and_unit(text: &str) -> Option<(&str, Option<usize>, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() {
        return None;
    }
    let Some(letter) = rest.chars().next() else {
        return Some((digits, None, ""));
    };
    let unit = UNITS.iter().position(|(name, _)| *name == letter)?;
    Some((digits, Some(unit), &rest[letter.len_utf8()..]))
}

impl FromStr for Period {
    type Err = BadPeriod;

    fn from_str(text: &str) -> Result<Self, BadPeriod> {
        let form = || BadPeriod::Form(text.to_owned());
        let (mut total, mut next_unit, mut rest) = (0u64, 0, text);
        loop {
            let (digits, unit, tail) = number_and_unit(rest).ok_or_else(form)?;
            // A number alone is seconds, but `1h30` leaves open what the 30 are.
            let unit = match unit {
                Some(unit) => unit,
                None if rest.len() == text.len() => UNITS.len() - 1,
                None => return Err(form()),
            };
            if unit < next_unit {
                return Err(BadPeriod::Order(text.to_owned()));
            }
            let count: u64 = digits.parse().map_err(|_| BadPeriod::Long)?;
            let seconds = count.checked_mul(UNITS[unit].1).ok_or(BadPeriod::Long)?;
            total = total.checked_add(seconds).ok_or(BadPeriod::Long)?;
            (next_unit, rest) = (unit + 1, tail);
            if rest.is_empty() {
                return Self::from_secs(total);
            }
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut left = self.0;
        for (name, seconds) in UNITS {
            if left >= seconds {
                write!(f, "{}{name}", left / seconds)?;
                left %= seconds;
            }
        }
        Ok(())
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PeriodVisitor)
    }
}

struct PeriodVisitor;

impl Visitor<'_> for PeriodVisitor {
    type Value = Period;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a period")
    }

    fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Period, E> {
        let seconds = u64::try_from(seconds).map_err(|_| E::custom("a period cannot be negative"))?;
        Period::from_secs(seconds).map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secs(text: &str) -> u64 {
        text.parse::<Period>().unwrap().as_secs()
    }

    #[test]
    fn reads_numbers_and_combined_units() {
        assert_eq!(secs("90"), 90);
        assert_eq!(secs("90s"), 90);
        assert_eq!(secs("1h10m"), 4200);
        assert_eq!(secs("1d2h3m4s"), 93_784);
        assert_eq!(secs("7d"), 604_800);
        assert_eq!(secs("0s"), 0);
    }

    #[test]
    fn refuses_what_could_be_read_two_ways() {
        for text in ["", "s", "h1", "1x", "-1", "1 h", "1.5h", "1h30", "ten", "1h\n", "٣s"] {
            let found = text.parse::<Period>();
            assert_eq!(found, Err(BadPeriod::Form(text.into())), "{text:?}");
        }
        for text in ["1s1h", "1h1h", "30m1d"] {
            assert_eq!(text.parse::<Period>(), Err(BadPeriod::Order(text.into())), "{text:?}");
        }
    }

    #[test]
    fn refuses_overflow() {
        for text in ["18446744073709551616", "18446744073709551615d", "36601d", "36600d1s"] {
            assert_eq!(text.parse::<Period>(), Err(BadPeriod::Long), "{text:?}");
        }
        assert!("36600d".parse::<Period>().is_ok());
    }

    proptest! {
        #[test]
        fn round_trip(seconds in 0..=LONGEST) {
            let period = Period::from_secs(seconds).unwrap();
            prop_assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
        }

        #[test]
        fn never_panics(text in "[0-9dhms .-]{0,24}|.*") {
            let _ = text.parse::<Period>();
        }
    }
}
