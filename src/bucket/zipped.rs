//! A package as a ZIP: the same package, the same bytes.
//!
//! Entries come in the order of the manifest, with the package's own times and modes and nothing of
//! the moment; symlinks are symlinks; names are UTF-8 and flagged so; an entry that may not fit
//! into 32 bits is in the ZIP64 form. It is written in one go, with sizes and checksums behind each
//! file's bytes, so nothing is held but the names. A time is there twice: for people, and as DOS has
//! it, in UTC, in steps of two seconds from 1980 on; and exactly, as `unzip` restores it, unless it
//! lies beyond what 32 bits hold.

use std::io::Write;

use anyhow::anyhow;
use blat_target::manifest::{Entry, Kind, Time};
use zip::write::{FullFileOptions, StreamWriter};
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::failure::{Failure, Needs, Result};
use crate::pack::{Reader, Scan};

/// As `zip` does by itself.
const LEVEL: i64 = 6;
/// What cannot grow beyond 32 bits, however little it can be compressed.
const SMALL: u64 = (4 << 30) - (64 << 20);
/// The extra field of Info-ZIP with the exact time of modification.
const EXTENDED_TIME: u16 = 0x5455;

/// Writes the package. A person is needed for what no ZIP can hold.
///
/// # Errors
/// Those of the source and those of `out`; the latter have to say in their own words what failed.
pub fn write<W: Write>(scan: &Scan, out: W) -> Result<W> {
    let (mut zip, mut reader) = (ZipWriter::new_stream(out), Reader::of(scan));
    for entry in scan.manifest.entries.iter().filter(|entry| !entry.path.is_empty()) {
        add(&mut zip, entry, &mut reader)?;
    }
    reader.end()?;
    Ok(zip.finish().later("cannot pack")?.into_inner())
}

fn add<W: Write>(zip: &mut ZipWriter<StreamWriter<W>>, entry: &Entry, reader: &mut Reader) -> Result<()> {
    let name = utf8(&entry.path, "the name")?;
    let options = options(entry)?;
    match &entry.kind {
        Kind::Folder => zip.add_directory(name, options).later("cannot pack"),
        Kind::Symlink { text } => {
            zip.add_symlink(name, utf8(text, "the link")?, options).later("cannot pack")
        }
        Kind::File { size, .. } => {
            zip.start_file(name, options.large_file(*size >= SMALL)).later("cannot pack")?;
            reader.copy(entry, zip).map(drop)
        }
    }
}

fn utf8<'a>(text: &'a [u8], what: &str) -> Result<&'a str> {
    std::str::from_utf8(text).map_err(|_| {
        let shown = String::from_utf8_lossy(text);
        Failure::person(anyhow!("{what} {shown:?} is not UTF-8, which no ZIP can hold"))
    })
}

fn options(entry: &Entry) -> Result<FullFileOptions<'static, 'static>> {
    let mut options = FullFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(LEVEL))
        .last_modified_time(dos_time(entry.modified))
        .unix_permissions(entry.mode);
    if let Ok(seconds) = i32::try_from(entry.modified.seconds) {
        let mut field = vec![1];
        field.extend_from_slice(&seconds.to_le_bytes());
        options.add_extra_field(EXTENDED_TIME, field, false).later("cannot pack")?;
    }
    Ok(options)
}

fn dos_time(time: Time) -> DateTime {
    let earliest = DateTime::default();
    let Ok(at) = jiff::Timestamp::from_second(time.seconds) else { return earliest };
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    let part = |value: i8| u8::try_from(value).unwrap_or_default();
    let year = u16::try_from(at.year()).unwrap_or_default();
    let made = DateTime::from_date_and_time(
        year,
        part(at.month()),
        part(at.day()),
        part(at.hour()),
        part(at.minute()),
        part(at.second()),
    );
    made.unwrap_or(earliest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack;
    use crate::progress::Progress;
    use std::fs;
    use std::io::{Cursor, Read};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    fn package() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("bin/ö")).unwrap();
        fs::write(root.path().join("descpkg"), "x").unwrap();
        fs::write(root.path().join("bin/tool"), "#!/bin/sh\n".repeat(100)).unwrap();
        fs::set_permissions(root.path().join("bin/tool"), PermissionsExt::from_mode(0o4755)).unwrap();
        symlink("bin/tool", root.path().join("link")).unwrap();
        root
    }

    fn zipped(root: &Path) -> Result<Vec<u8>> {
        write(&pack::scan(root, &Progress::start())?, Vec::new())
    }

    #[test]
    fn a_zip_has_names_kinds_modes_and_content_in_order() {
        let root = package();
        let mut zip = zip::ZipArchive::new(Cursor::new(zipped(root.path()).unwrap())).unwrap();
        let names: Vec<String> = zip.file_names().map(|name| name.unwrap().into_owned()).collect();
        assert_eq!(names, ["bin/", "bin/tool", "bin/ö/", "descpkg", "link"]);
        let mode = |zip: &mut zip::ZipArchive<_>, name: &str| zip.by_name(name).unwrap().unix_mode().unwrap();
        assert_eq!(mode(&mut zip, "bin/tool"), 0o100_755, "set-id bits do not travel");
        assert_eq!(mode(&mut zip, "bin/") & 0o170_000, 0o040_000);
        assert_eq!(mode(&mut zip, "link") & 0o170_000, 0o120_000);
        let mut text = String::new();
        zip.by_name("link").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "bin/tool");
        text.clear();
        zip.by_name("bin/tool").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "#!/bin/sh\n".repeat(100));
    }

    #[test]
    fn the_same_package_is_the_same_bytes_wherever_it_lies() {
        let (a, b) = (package(), package());
        let times = |root: &Path| {
            for (name, seconds) in [("descpkg", 1), ("bin/tool", 1_700_000_001), ("bin/ö", 5_000_000_000)] {
                let file = fs::File::open(root.join(name)).unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
            }
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
            fs::File::open(root.join("bin")).unwrap().set_modified(at).unwrap();
            fs::remove_file(root.join("link")).unwrap();
        };
        times(a.path());
        times(b.path());
        assert!(zipped(a.path()).unwrap() == zipped(b.path()).unwrap());
    }

    #[test]
    fn a_name_that_is_no_utf8_needs_a_person() {
        let root = package();
        fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
        let failure = zipped(root.path()).unwrap_err();
        assert_eq!(failure.exit_code(), crate::failure::EXIT_PERSON);
        assert!(failure.to_string().contains("is not UTF-8"), "{failure}");
    }

    #[test]
    fn what_changes_while_it_is_packed_is_no_package() {
        let root = package();
        let scan = pack::scan(root.path(), &Progress::start()).unwrap();
        fs::write(root.path().join("descpkg"), "longer").unwrap();
        let failure = write(&scan, Vec::new()).unwrap_err();
        assert!(failure.to_string().contains("changed while it was read"), "{failure}");
    }
}
