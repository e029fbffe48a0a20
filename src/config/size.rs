//! A size as people of package archives write it: `100`, `"100k"`, `"100b"`, `"20m"`, `"2g"`.
//!
//! `b`, `k` and no suffix all mean blocks of 1024 bytes, `m` 1024 of those, `g` 1024 of these.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const BLOCK: u64 = 1024;

/// A size in whole blocks of 1024 bytes; the same in bytes fits 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSize {
    #[error("`{0}` is not a size")]
    Form(String),
    #[error("the size is too large")]
    Large,
}

impl Size {
    /// No bytes.
    pub const NONE: Self = Self(0);

    /// The size of whole blocks in so many bytes.
    pub(crate) const fn of_bytes(bytes: u64) -> Self {
        Self(bytes / BLOCK)
    }

    /// A size of so many blocks of 1024 bytes.
    ///
    /// # Errors
    /// When its bytes do not fit 64 bits.
    pub fn from_blocks(blocks: u64) -> Result<Self, BadSize> {
        blocks.checked_mul(BLOCK).ok_or(BadSize::Large)?;
        Ok(Self(blocks))
    }

    /// The same in bytes.
    pub fn as_bytes(self) -> u64 {
        self.0 * BLOCK
    }
}

impl FromStr for Size {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<Self, BadSize> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, suffix) = text.split_at(end);
        let blocks_each = match suffix {
            "" | "b" | "k" => 1,
            "m" => 1024,
            "g" => 1024 * 1024,
            _ => return Err(BadSize::Form(text.to_owned())),
        };
        if digits.is_empty() {
            return Err(BadSize::Form(text.to_owned()));
        }
        let count: u64 = digits.parse().map_err(|_| BadSize::Large)?;
        Self::from_blocks(count.checked_mul(blocks_each).ok_or(BadSize::Large)?)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0k"),
            blocks if blocks % (1024 * 1024) == 0 => write!(f, "{}g", blocks / 1024 / 1024),
            blocks if blocks % 1024 == 0 => write!(f, "{}m", blocks / 1024),
            blocks => write!(f, "{blocks}k"),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size")
    }

    fn visit_i64<E: de::Error>(self, blocks: i64) -> Result<Size, E> {
        let blocks = u64::try_from(blocks).map_err(|_| E::custom("a size cannot be negative"))?;
        Size::from_blocks(blocks).map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(text: &str) -> u64 {
        text.parse::<Size>().unwrap().as_bytes()
    }

    #[test]
    fn no_suffix_b_and_k_are_kilobyte_blocks() {
        assert_eq!(bytes("100"), 102_400);
        assert_eq!(bytes("100b"), 102_400);
        assert_eq!(bytes("100k"), 102_400);
        assert_eq!(bytes("20m"), 20 << 20);
        assert_eq!(bytes("2g"), 2 << 30);
    }

    #[test]
    fn refuses_other_forms_and_overflow() {
        for text in ["", "k", "1K", "1kb", "1 k", "-1", "1.5m", "1t"] {
            assert_eq!(text.parse::<Size>(), Err(BadSize::Form(text.into())), "{text:?}");
        }
        for text in ["18446744073709551616", "18014398509481984", "17179869184g"] {
            assert_eq!(text.parse::<Size>(), Err(BadSize::Large), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(blocks in 0..u64::MAX / BLOCK) {
            let size = Size::from_blocks(blocks).unwrap();
            prop_assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
        }

        #[test]
        fn never_panics(text in "[0-9bkmg .-]{0,24}|.*") {
            let _ = text.parse::<Size>();
        }
    }
}
