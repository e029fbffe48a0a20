//! `blat-target install`: sets this machine up to look after its archive, as the transfer user: the
//! archive's folder, the user's own units, their timers, and that they run when nobody is logged in.
//!
//! What is to be comes on standard input, a line for each `KEY=VALUE`: `archive`, `index_at`,
//! `purge_at`. What was done, or was so already, is said on standard output. Run twice, it changes nothing.

mod crontab;
mod manager;

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::archive::located;
use crate::serve::{EXIT_DONE, EXIT_LATER, EXIT_PERSON};

use manager::Manager;

/// The units, with what stands in them until the wishes are put in.
const UNITS: [(&str, &str); 4] = [
    ("blat-index.service", include_str!("../units/user/blat-index.service")),
    ("blat-index.timer", include_str!("../units/user/blat-index.timer")),
    ("blat-purge.service", include_str!("../units/user/blat-purge.service")),
    ("blat-purge.timer", include_str!("../units/user/blat-purge.timer")),
];
/// How much is read of what is to be, in bytes.
const WISHES_MAX: u64 = 16 << 10;

/// What is to be.
struct Wishes {
    archive: String,
    index_at: String,
    purge_at: String,
}

/// How it ended, for who has to do something about it.
enum Needs {
    Nothing,
    /// A person: what was said tells what to do.
    Person,
}

type Result<T> = std::result::Result<T, String>;

/// Sets the machine up.
pub fn install() -> ExitCode {
    // Looked up before anything is waited for: a session may replace the helper meanwhile.
    let program =
        fs::read_link("/proc/self/exe").map_err(|why| format!("cannot tell where this program is: {why}"));
    match program.and_then(|program| set_up(&program, &Wishes::read()?)) {
        Ok(Needs::Nothing) => ExitCode::from(EXIT_DONE),
        Ok(Needs::Person) => ExitCode::from(EXIT_PERSON),
        Err(why) => {
            eprintln!("blat-target: {why}");
            ExitCode::from(EXIT_LATER)
        }
    }
}

fn set_up(program: &Path, wishes: &Wishes) -> Result<Needs> {
    // The kernel calls it `… (deleted)` when it was replaced before it could ask.
    if !program.exists() {
        return Err("the helper was replaced meanwhile: set this target up again".into());
    }
    make_archive(&wishes.archive)?;
    if !Path::new("/run/systemd/system").is_dir() {
        println!("this machine does not run systemd; lines for `crontab -e` that do the same:");
        print!("{}", crontab::lines(program, wishes));
        return Ok(Needs::Person);
    }
    if let Some(unit) = manager::system_timer() {
        println!("{unit} is enabled in the system: nothing more is set up for this user alone");
        return Ok(Needs::Nothing);
    }
    if let Some(other) = other_archive(&unit_folder()?, wishes)? {
        println!(
            "this user's timers look after the archive {other}, and a user's timers look after one: give {} to another \
             user, or, where that one is done with, remove {} and set this target up again",
            wishes.archive,
            unit_folder()?.join(UNITS[0].0).display()
        );
        return Ok(Needs::Person);
    }
    let changed = write_units(program, wishes)?;
    let mut manager = Manager::of_user()?;
    let lingers = manager.linger()?;
    if !manager.answers() {
        println!(
            "this user's service manager does not run: root has to start it, once, with `{}`; then set this \
                  target up again",
            manager.linger_command()
        );
        return Ok(Needs::Person);
    }
    manager.start_timers(&changed)?;
    if lingers {
        return Ok(Needs::Nothing);
    }
    println!(
        "the timers stop when nobody is logged in, until root has run, once: {}",
        manager.linger_command()
    );
    Ok(Needs::Person)
}

impl Wishes {
    fn read() -> Result<Self> {
        let mut text = String::new();
        let read = std::io::stdin().take(WISHES_MAX).read_to_string(&mut text);
        read.map_err(|why| format!("cannot read what is to be set up: {why}"))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut wishes = Self {
            archive: "dpkg_archive".into(),
            index_at: "*-*-* 03:00:00".into(),
            purge_at: "Mon *-*-* 06:00:00".into(),
        };
        for line in text.lines() {
            let (key, value) = line.split_once('=').ok_or_else(|| format!("no KEY=VALUE: {line:?}"))?;
            match key {
                "archive" => wishes.archive = value.into(),
                "index_at" => wishes.index_at = value.into(),
                "purge_at" => wishes.purge_at = value.into(),
                _ => return Err(format!("unknown key {key:?}")),
            }
        }
        Ok(wishes)
    }
}

fn make_archive(archive: &str) -> Result<()> {
    let path = located(archive.as_bytes()).map_err(|refusal| refusal.reason)?;
    let path = Path::new(std::ffi::OsStr::from_bytes(&path)).to_owned();
    if path.is_dir() {
        println!("the archive {} is there", path.display());
        return Ok(());
    }
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(&path);
    made.map_err(|why| format!("cannot make the archive {}: {why}", path.display()))?;
    println!("made the archive {}", path.display());
    Ok(())
}

/// The archive that is there and that the units have now, if it is another.
fn other_archive(folder: &Path, wishes: &Wishes) -> Result<Option<String>> {
    let text = fs::read_to_string(folder.join(UNITS[0].0)).unwrap_or_default();
    let Some(archive) = text.lines().find_map(archive_of) else { return Ok(None) };
    let place = |archive: &str| {
        let located = located(archive.as_bytes()).map_err(|refusal| refusal.reason)?;
        Ok::<_, String>(fs::canonicalize(std::ffi::OsStr::from_bytes(&located)).ok())
    };
    Ok(place(&archive)?
        .filter(|there| place(&wishes.archive).ok().flatten().as_ref() != Some(there))
        .map(|_| archive))
}

/// Writes the units that are missing or others, and returns their names.
fn write_units(program: &Path, wishes: &Wishes) -> Result<Vec<&'static str>> {
    let folder = unit_folder()?;
    fs::create_dir_all(&folder).map_err(|why| format!("cannot make {}: {why}", folder.display()))?;
    let mut changed = Vec::new();
    for (name, text) in UNITS {
        let (path, text) = (folder.join(name), unit(name, text, program, wishes));
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            println!("{} is as it should be", path.display());
            continue;
        }
        let draft = folder.join(format!(".{name}.new"));
        let written = fs::write(&draft, text).and_then(|()| fs::rename(&draft, &path));
        written.map_err(|why| format!("cannot write {}: {why}", path.display()))?;
        println!("wrote {}", path.display());
        changed.push(name);
    }
    Ok(changed)
}

fn unit_folder() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
    config.map(|config| config.join("systemd/user")).ok_or_else(|| "HOME is not set".into())
}

/// A unit with what is to be in it.
fn unit(name: &str, text: &str, program: &Path, wishes: &Wishes) -> String {
    let verb = if name.starts_with("blat-index") { "index" } else { "purge" };
    let at = if verb == "index" { &wishes.index_at } else { &wishes.purge_at };
    let line = |line: &str| {
        if line.starts_with("ExecStart=") {
            let (program, archive) = (quoted(&program.to_string_lossy()), quoted(&wishes.archive));
            format!("ExecStart={program} {verb} --archive {archive}\n")
        } else if line.starts_with("OnCalendar=") {
            format!("OnCalendar={at}\n")
        } else {
            format!("{line}\n")
        }
    };
    text.lines().map(line).collect()
}

/// One word of a command line in a unit.
fn quoted(word: &str) -> String {
    let mut quoted = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' | '$' => quoted.extend([c, c]),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// The archive in a line that `unit` has made.
fn archive_of(line: &str) -> Option<String> {
    let (_, archive) = line.strip_prefix("ExecStart=")?.split_once(" --archive \"")?;
    let (mut word, mut chars) = (String::new(), archive.strip_suffix('"')?.chars());
    while let Some(c) = chars.next() {
        word.push(if matches!(c, '\\' | '%' | '$') { chars.next()? } else { c });
    }
    Some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_have_the_wishes_in_them() {
        let wishes = Wishes::parse("archive=/srv/100% \"of\" it\nindex_at=*:*:0/5\n").unwrap();
        let of = |name: &str| {
            let (name, text) = UNITS.into_iter().find(|(unit, _)| *unit == name).unwrap();
            unit(name, text, Path::new("/home/p/bin/blat-target"), &wishes)
        };
        let service = of("blat-purge.service");
        let line = "ExecStart=\"/home/p/bin/blat-target\" purge --archive \"/srv/100%% \\\"of\\\" it\"\n";
        assert!(service.contains(line), "{service}");
        assert_eq!(service.lines().find_map(archive_of).as_ref(), Some(&wishes.archive));
        assert!(of("blat-index.timer").contains("\nOnCalendar=*:*:0/5\n"));
        assert!(of("blat-purge.timer").contains("\nOnCalendar=Mon *-*-* 06:00:00\n"));
        assert!(Wishes::parse("nonsense").is_err() && Wishes::parse("a=b").is_err());
    }

    #[test]
    fn another_archive_that_is_there_keeps_its_timers() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
        let wishes = |name: &str| Wishes::parse(&format!("archive={}\n", path(name))).unwrap();
        ["one", "other"].iter().for_each(|name| fs::create_dir(path(name)).unwrap());
        let other = |name: &str| other_archive(root.path(), &wishes(name)).unwrap();
        assert_eq!(other("one"), None, "there are no units");
        let (name, text) = UNITS[0];
        let text = unit(name, text, Path::new("/bin/blat-target"), &wishes("one"));
        fs::write(root.path().join(name), text).unwrap();
        assert_eq!(other("one"), None);
        assert_eq!(other("other"), Some(path("one")));
        fs::remove_dir(path("one")).unwrap();
        assert_eq!(other("other"), None, "it has moved");
    }
}
