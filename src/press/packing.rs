//! How a stream is packed: zstd's level, and what is set beside it.
//!
//! The figures are those of the crates of a large Rust program (source, in many small files), of some
//! Python wheels, and of a system's programs and data.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use zstd::stream::raw::CParameter;
use zstd::stream::write::Encoder;

use super::level::{FOR_FAR, Levels};

/// Long-distance matching looks at one place in 2^7: at one in 2^4 it finds 1 % more in 1.5 times
/// the time;
const LONG_DISTANCE_RATE: u32 = 7;
/// and takes matches from so many bytes on. What is shorter is left to the level's own search: with zstd's
/// 64, packages of text become 1 % longer; with more, programs do.
const LONG_DISTANCE_MIN: u32 = 96;
/// At the level for a line that is far, matches are sought in twice as many places as zstd does there: the
/// stream is 0.5 to 1.5 % shorter, in 5 to 8 % more time. The next level takes 20 % more for 2.5 %.
const SEARCH_LOG_FOR_FAR: u32 = 4;
/// The places come from a table of twice zstd's size, and a match has a byte more. Both together pack
/// source 1.7 % shorter, the rest as before, in the same time.
const HASH_LOG_FOR_FAR: u32 = 20;
const MATCH_MIN_FOR_FAR: u32 = 6;

/// How something is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packing {
    /// zstd's.
    pub(crate) level: i32,
    /// The size of the window in bytes, as a power of two.
    pub(crate) window_log: u32,
    /// Whether what is alike is found in all of the window.
    pub(crate) long_distance: bool,
}

impl Packing {
    /// As the first package of a session is packed whose target took so long to answer.
    pub(crate) fn first(round_trip: Option<Duration>, window_log: u32) -> Self {
        Levels::new(round_trip, Instant::now()).packing(window_log)
    }

    /// Packs what is written to it into `out`.
    pub(crate) fn stream<W: Write>(self, out: W) -> io::Result<Encoder<'static, W>> {
        let mut stream = Encoder::new(out, self.level)?;
        stream.window_log(self.window_log)?;
        if self.long_distance {
            stream.long_distance_matching(true)?;
            stream.set_parameter(CParameter::LdmHashRateLog(LONG_DISTANCE_RATE))?;
            stream.set_parameter(CParameter::LdmMinMatch(LONG_DISTANCE_MIN))?;
        }
        if self.level == FOR_FAR {
            stream.set_parameter(CParameter::SearchLog(SEARCH_LOG_FOR_FAR))?;
            stream.set_parameter(CParameter::HashLog(HASH_LOG_FOR_FAR))?;
            stream.set_parameter(CParameter::MinMatch(MATCH_MIN_FOR_FAR))?;
        }
        Ok(stream)
    }
}
