//! The results of runs over time, for plots: a line of JSON for each, the oldest forgotten.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Seconds;
use crate::places::{adopt, replace};

/// How large a file may grow, in bytes, before its older half goes.
const SIZE_MAX: u64 = 256 << 10;

/// One run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Point {
    pub at: Seconds,
    /// The age of what had been missing longest, in seconds; of a synchronisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    pub packages: u64,
    pub bytes: u64,
    pub millis: u64,
    /// Whether the run did not come to its end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
}

/// Adds a point; called under the lock of the kind of run that the file is of.
pub fn append(path: &Path, point: &Point) {
    let added = || -> io::Result<()> {
        let mut line = serde_json::to_vec(point)?;
        line.push(b'\n');
        let mut file = File::options().create(true).append(true).open(path)?;
        adopt(path, path.parent().unwrap_or(path));
        file.write_all(&line)?;
        if file.metadata()?.len() > SIZE_MAX { halve(path) } else { Ok(()) }
    };
    if let Err(why) = added() {
        tracing::warn!("cannot write {}: {why}", path.display());
    }
}

fn halve(path: &Path) -> io::Result<()> {
    let text = fs::read(path)?;
    let middle = text.len() / 2;
    let start = text[middle..].iter().position(|byte| *byte == b'\n').map_or(0, |at| middle + at + 1);
    replace(path, &text[start..])
}

/// All points; a line that a crash cut is passed over.
pub fn points(path: &Path) -> Vec<Point> {
    last_points(path, u64::MAX)
}

/// The points in the last so many bytes of the file.
pub fn last_points(path: &Path, bytes: u64) -> Vec<Point> {
    let read = || -> io::Result<String> {
        let (mut file, mut text) = (File::open(path)?, String::new());
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        file.read_to_string(&mut text)?;
        Ok(text)
    };
    // The first line may be half of one, which parses as none; a file never written has none.
    let text = read().unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// From when on `points`, of the last so many bytes of the file, are all runs; none where none are left out.
pub fn complete_since(path: &Path, bytes: u64, points: &[Point]) -> Option<Seconds> {
    let length = fs::metadata(path).ok()?.len();
    // What is shorter has never lost its older half.
    let is_cut = length > bytes || length > SIZE_MAX / 3;
    points.first().filter(|_| is_cut).map(|first| first.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_stays_small_and_the_last_point_is_the_last_that_came() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("series");
        for at in 0..6000 {
            append(&path, &Point { at, lag: Some(at), ..Point::default() });
        }
        assert!(fs::metadata(&path).unwrap().len() <= SIZE_MAX);
        let all = points(&path);
        assert!(all.len() > 1000 && all.is_sorted_by_key(|point| point.at));
        assert_eq!(all.last().unwrap().at, 5999);
        let last = last_points(&path, 1000);
        assert!(last.len() < 50 && last.last() == all.last() && last.first() != all.first());
        assert_eq!(complete_since(&path, u64::MAX, &all), Some(all[0].at));
        assert_eq!(complete_since(&path, 1000, &last), Some(last[0].at));
    }

    #[test]
    fn a_cut_line_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("series");
        append(&path, &Point { at: 1, ..Point::default() });
        fs::write(&path, [&fs::read(&path).unwrap()[..], b"{\"at\":2,"].concat()).unwrap();
        assert_eq!(points(&path).len(), 1);
        assert_eq!(complete_since(&path, u64::MAX, &points(&path)), None);
    }
}
