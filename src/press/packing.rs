//! How a stream is packed: zstd's level, and what is set beside it.
//!
//! The figures are those of the crates of a large Rust program (source, in many small files), of some
//! Python wheels, and of a system's programs and data.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use zstd::stream::raw::CParameter;

use super::level::{FOR_FAR, Levels};
use super::stream::Stream;

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
/// Where nothing is sought far back, a frame is as long as its window, so that zstd never meets a window in
/// two parts: for that it has other code, which takes a tenth longer. In frames of 16 MiB the stream is 0.7 %
/// longer than in one, in those of 8 MiB 2 %.
const WINDOW_LOG_QUICK: u32 = 24;
/// A table of twice zstd's size: 4 to 5 % fewer bytes in the same time. With one of four times its size it is
/// 3 % fewer again, in 4 % more time, and in more where other programs want the processor's cache.
const HASH_LOG_QUICK: u32 = 15;

/// How something is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packing {
    /// zstd's.
    pub(crate) level: i32,
    /// The size of the window in bytes, as a power of two.
    pub(crate) window_log: u32,
    /// Whether what is alike is found in all of the window.
    pub(crate) long_distance: bool,
    /// Whether it ends with a checksum of what was packed: ssh sees to what goes over a line, nobody to what
    /// lies on a disk.
    pub(crate) checksum: bool,
}

impl Packing {
    /// As the first package of a session is packed whose target took so long to answer.
    pub(crate) fn first(round_trip: Option<Duration>, window_log: u32) -> Self {
        Levels::new(round_trip, Instant::now()).packing(window_log)
    }

    /// Packs what is written to it into `out`.
    pub(crate) fn stream<W: Write>(self, out: W) -> io::Result<Stream<W>> {
        let (frame_max, mut parameters) = if self.long_distance {
            let parameters = vec![
                CParameter::WindowLog(self.window_log),
                CParameter::EnableLongDistanceMatching(true),
                CParameter::LdmHashRateLog(LONG_DISTANCE_RATE),
                CParameter::LdmMinMatch(LONG_DISTANCE_MIN),
            ];
            (None, parameters)
        } else {
            let window_log = self.window_log.min(WINDOW_LOG_QUICK);
            let parameters = vec![CParameter::WindowLog(window_log), CParameter::HashLog(HASH_LOG_QUICK)];
            (Some(1 << window_log), parameters)
        };
        if self.level == FOR_FAR {
            parameters.extend([
                CParameter::SearchLog(SEARCH_LOG_FOR_FAR),
                CParameter::HashLog(HASH_LOG_FOR_FAR),
                CParameter::MinMatch(MATCH_MIN_FOR_FAR),
            ]);
        }
        parameters.push(CParameter::ChecksumFlag(self.checksum));
        Stream::new(self.level, &parameters, frame_max, out)
    }
}
