//! Aging: what becomes of package-versions that a target has and should not have any more.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::layer::Layer;
use super::period::Period;

/// When what is in excess is deleted, and what keeps it from being deleted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Aging {
    pub mode: AgingMode,
    /// How long something has been in excess before it is deleted.
    pub after: Period,
    /// By how much a current set may have shrunk since the last good synchronisation.
    pub max_shrink: Percent,
    /// How many package-versions one run deletes at most.
    pub max_delete: u32,
}

/// Who deletes what is in excess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgingMode {
    /// Nobody.
    None,
    /// The synchronisation that finds it.
    Immediate,
    /// A synchronisation, once it has been marked for long enough.
    Master,
    /// The target's own purge, once it has been marked for long enough.
    Target,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AgingLayer {
    pub(super) mode: Option<AgingMode>,
    #[serde(deserialize_with = "with_a_unit")]
    pub(super) after: Option<Period>,
    pub(super) max_shrink: Option<Percent>,
    pub(super) max_delete: Option<u32>,
}

impl Aging {
    pub(super) fn merge(own: &Layer, general: &Layer) -> Self {
        let (own, general) = (&own.aging, &general.aging);
        Self {
            mode: own.mode.or(general.mode).unwrap_or(AgingMode::None),
            after: own.after.or(general.after).unwrap_or(Period::seconds(30 * 86_400)),
            max_shrink: own.max_shrink.or(general.max_shrink).unwrap_or(Percent(20)),
            max_delete: own.max_delete.or(general.max_delete).unwrap_or(1000),
        }
    }
}

/// A period that names its units. Elsewhere a number alone is seconds; but ages were days for those who come from
/// elsewhere, and thirty seconds in the place of thirty days delete everything.
fn with_a_unit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Period>, D::Error> {
    deserializer.deserialize_any(AgeVisitor).map(Some)
}

struct AgeVisitor;

impl Visitor<'_> for AgeVisitor {
    type Value = Period;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a period with its unit")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Period, E> {
        Err(E::custom(format!("days, or seconds? `{number}` alone leaves that open")))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
        match text.parse() {
            Ok(number) => self.visit_i64(number),
            Err(_) => text.parse().map_err(E::custom),
        }
    }
}

/// A share from 0 to 100 percent, as people write it: `"20%"`, or `20`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

/// Why a text is no percentage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a percentage from 0% to 100%")]
pub struct BadPercent(String);

impl Percent {
    /// So many of a hundred.
    ///
    /// # Errors
    /// When it is more than 100.
    pub fn new(of_a_hundred: u8) -> Result<Self, BadPercent> {
        if of_a_hundred > 100 {
            return Err(BadPercent(of_a_hundred.to_string()));
        }
        Ok(Self(of_a_hundred))
    }

    /// How many of a hundred it is.
    pub fn of_a_hundred(self) -> u8 {
        self.0
    }
}

impl FromStr for Percent {
    type Err = BadPercent;

    fn from_str(text: &str) -> Result<Self, BadPercent> {
        let bad = || BadPercent(text.to_owned());
        let digits = text.strip_suffix('%').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad());
        }
        digits.parse().ok().and_then(|number| Self::new(number).ok()).ok_or_else(bad)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PercentVisitor)
    }
}

struct PercentVisitor;

impl Visitor<'_> for PercentVisitor {
    type Value = Percent;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a percentage")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Percent, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Percent, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_age_in_days_as_elsewhere_is_never_taken_as_seconds() {
        let layer = |after: &str| toml::from_str::<AgingLayer>(&format!("after = {after}"));
        for after in ["30", "'30'", "0"] {
            let told = layer(after).unwrap_err().to_string();
            assert!(told.contains("days, or seconds? `"), "{told}");
        }
        assert_eq!(layer("'30d'").unwrap().after, Some(Period::seconds(30 * 86_400)));
        assert_eq!(layer("'0s'").unwrap().after, Some(Period::seconds(0)));
    }

    #[test]
    fn a_share_of_more_than_all_or_in_another_form_is_refused() {
        for text in ["101%", "-1", "20 %", "%", "", "2.5%", "+5", "20%%", "256"] {
            assert_eq!(text.parse::<Percent>(), Err(BadPercent(text.into())));
        }
        assert_eq!("20".parse(), "20%".parse::<Percent>());
    }

    proptest! {
        #[test]
        fn round_trip(number in 0..=100u8) {
            let percent = Percent::new(number).unwrap();
            prop_assert_eq!(percent.to_string().parse(), Ok(percent));
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = text.parse::<Percent>();
        }
    }
}
