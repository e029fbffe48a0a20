//! Whatever a person can set, say, read or meet stands in the man page where people look for it.
//!
//! A new key, option, command, exit code, unit, file or journal field makes one of these fail until
//! `packaging/man` tells of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use blat::command_line::Arguments;
use clap::CommandFactory;

const SOURCE: &str = env!("CARGO_MANIFEST_DIR");
const MAN: &str = "packaging/man";

/// The source of a page, its escapes undone: `\-` is a dash, fonts are nothing.
fn page(name: &str) -> String {
    let path = Path::new(SOURCE).join(MAN).join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let changes =
        [("\\-", "-"), ("\\fR", ""), ("\\fB", ""), ("\\fI", ""), ("\\(aq", "'"), ("\\ex2d", "\\x2d")];
    changes.iter().fold(text, |text, (from, to)| text.replace(from, to))
}

/// The words of a text, without the punctuation and the macros' quotes around them.
fn words(text: &str) -> BTreeSet<&str> {
    let around = |c: char| c.is_whitespace() || "\"',;:()[]".contains(c);
    text.split(around).map(|word| word.trim_end_matches(['.', '/'])).collect()
}

/// Panics with all that a page lacks.
fn assert_has(page_name: &str, text: &str, wanted: impl IntoIterator<Item = String>) {
    let words = words(text);
    let (mut missing, mut count) = (Vec::new(), 0);
    for word in wanted {
        count += 1;
        if !words.contains(word.trim_end_matches(['.', '/'])) {
            missing.push(word);
        }
    }
    assert!(count > 0, "nothing was looked for in {page_name}: the test is broken");
    assert!(missing.is_empty(), "{MAN}/{page_name} does not tell of {missing:?}");
}

/// The part of a page below the heading (`.SH`, `.SS`) that starts with `title`, up to the next one.
fn section<'a>(page: &'a str, title: &str) -> Option<&'a str> {
    let of_line = |line: &str| {
        let title_of = line.strip_prefix(".SS ").or_else(|| line.strip_prefix(".SH "))?;
        Some(title_of.trim_matches('"').to_owned())
    };
    let mut start = None;
    let mut at = 0;
    for line in page.split_inclusive('\n') {
        if let Some(found) = of_line(line.trim_end()) {
            if let Some(start) = start {
                return Some(&page[start..at]);
            }
            if found == title || found.starts_with(&format!("{title} ")) {
                start = Some(at + line.len());
            }
        }
        at += line.len();
    }
    start.map(|start| &page[start..])
}

/// Every command that can be run, as it is typed, with its own options and arguments.
fn commands(command: &clap::Command, path: &str, found: &mut Vec<(String, Vec<String>, Vec<String>)>) {
    let shown = |argument: &&clap::Arg| !argument.is_hide_set() && argument.get_id() != "help";
    let own: Vec<_> = command.get_arguments().filter(shown).filter(|a| !a.is_global_set()).collect();
    if !command.has_subcommands() {
        let options = own.iter().filter_map(|option| option.get_long()).map(|long| format!("--{long}"));
        let places = own.iter().filter(|place| place.is_positional());
        let names = places.map(|place| place.get_id().to_string().to_uppercase());
        found.push((path.to_owned(), options.collect(), names.collect()));
    }
    for below in command.get_subcommands().filter(|below| below.get_name() != "help" && !below.is_hide_set())
    {
        commands(below, &format!("{path} {}", below.get_name()), found);
    }
}

#[test]
fn every_command_and_option_stands_in_blat_1() {
    let text = page("blat.1");
    let mut found = Vec::new();
    commands(&Arguments::command(), "blat", &mut found);
    assert!(found.len() > 5, "{found:?}");
    for (command, options, places) in found {
        let part = section(&text, &command);
        let part = part.unwrap_or_else(|| panic!("{MAN}/blat.1 has no heading `.SS \"{command} …\"`"));
        if !options.is_empty() {
            assert_has("blat.1", part, options);
        }
        let heading = text.lines().find(|line| line.starts_with(&format!(".SS \"{command}"))).unwrap();
        for place in places {
            assert!(heading.contains(&place), "{MAN}/blat.1: {heading} does not name {place}");
        }
    }
    let own = Arguments::command();
    let general = own.get_arguments().filter_map(|argument| argument.get_long());
    let general = general.chain(["help", "version"]).map(|long| format!("--{long}"));
    assert_has("blat.1", section(&text, "OPTIONS").expect("options"), general);
}

#[test]
fn every_command_and_option_of_the_helper_stands_in_blat_target_1() {
    let help = blat_target::command_line::HELP;
    let text = page("blat-target.1");
    let options = words(help).into_iter().filter(|word| word.starts_with('-') && word.len() > 1);
    assert_has("blat-target.1", &text, options.map(str::to_owned));
    let uses = help.lines().filter_map(|line| line.split_once("blat-target ").map(|(_, rest)| rest));
    let commands = uses.filter_map(|rest| rest.split_whitespace().next());
    let commands: BTreeSet<_> = commands.filter(|word| !word.starts_with('-')).collect();
    assert!(commands.contains("serve"), "{commands:?}");
    for command in commands {
        let heading = format!("blat-target {command}");
        assert!(section(&text, &heading).is_some(), "{MAN}/blat-target.1 has no heading `.SS \"{heading}\"`");
    }
}

#[test]
fn every_key_stands_in_blat_toml_5() {
    let text = page("blat.toml.5");
    let lines: Vec<&str> = text.lines().collect();
    let entries: BTreeSet<&str> = lines
        .windows(2)
        .filter(|pair| pair[0] == ".TP")
        .filter_map(|pair| pair[1].strip_prefix(".B "))
        .collect();
    let missing: Vec<&str> = blat::config::all_keys().filter(|key| !entries.contains(key)).collect();
    assert!(missing.is_empty(), "{MAN}/blat.toml.5 has no entry (`.TP`, `.B KEY`) for {missing:?}");
    let known: BTreeSet<&str> = blat::config::all_keys().collect();
    let keys = section(&text, "KEYS").map(|_| entries.iter().filter(|entry| !entry.contains(' ')));
    let gone: Vec<_> = keys.expect("keys").filter(|entry| !known.contains(**entry)).collect();
    assert!(gone.is_empty(), "{MAN}/blat.toml.5 tells of keys that there are not: {gone:?}");
}

#[test]
fn every_exit_code_stands_in_the_pages_of_the_programs() {
    use blat_target::serve::{EXIT_DONE, EXIT_LATER, EXIT_PERSON, EXIT_USAGE};
    let text = page("blat-target.1");
    let status = section(&text, "EXIT STATUS").expect("exit status");
    assert_has(
        "blat-target.1",
        status,
        [EXIT_DONE, EXIT_USAGE, EXIT_LATER, EXIT_PERSON].map(|c| c.to_string()),
    );
    let text = page("blat.1");
    let status = section(&text, "EXIT STATUS").expect("exit status");
    let usage =
        clap::error::Error::<clap::error::DefaultFormatter>::new(clap::error::ErrorKind::UnknownArgument);
    let codes = [0, usage.exit_code(), blat::failure::EXIT_LATER.into(), blat::failure::EXIT_PERSON.into()];
    assert_has("blat.1", status, codes.map(|code| code.to_string()));
}

#[test]
fn every_unit_stands_in_blat_units_7() {
    let mut units = Vec::new();
    for folder in ["units", "target/units"] {
        let listed = fs::read_dir(Path::new(SOURCE).join(folder)).into_iter().flatten().flatten();
        let files = listed.filter(|entry| entry.path().is_file());
        units.extend(files.map(|entry| entry.file_name().to_string_lossy().replace('@', "@NAME")));
    }
    assert!(units.len() >= 12, "{units:?}");
    assert_has("blat.units.7", &page("blat.units.7"), units);
}

/// Folders that tmpfiles makes, by the names that the pages have for them.
#[test]
fn every_folder_stands_in_blat_1() {
    let table = fs::read_to_string(Path::new(SOURCE).join("packaging/tmpfiles/blat.conf")).unwrap();
    let made = table.lines().filter(|line| line.starts_with('d'));
    let paths: Vec<String> =
        made.filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect();
    let text = page("blat.1");
    let files = section(&text, "FILES").expect("files");
    let tells = |path: &String| {
        let known = words(files);
        let below = |word: &&str| Path::new(word).starts_with(path);
        known.iter().any(below)
    };
    let missing: Vec<_> = paths.iter().filter(|path| !tells(path)).collect();
    assert!(!paths.is_empty() && missing.is_empty(), "{MAN}/blat.1, FILES, does not tell of {missing:?}");
}

#[test]
fn every_journal_field_and_variable_stands_in_blat_1() {
    let mut fields = BTreeSet::new();
    // Metrics are no fields: they stand in blat-web.8.
    let is_metrics = |file: &PathBuf| file.ends_with("web/metrics.rs");
    for file in sources(&Path::new(SOURCE).join("src")).into_iter().filter(|file| !is_metrics(file)) {
        let text = fs::read_to_string(&file).unwrap();
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let name = word.strip_prefix("blat_").or_else(|| word.strip_prefix("BLAT_"));
            // A field is given a value; the crate `blat_target` and its modules are not.
            let given =
                [format!("{word} = "), format!("{word}, "), format!("{word},\n"), format!("\"{word}\"")];
            let names_crate = word == "blat_target" && !text.contains("blat_target = ");
            if name.is_some_and(|name| !name.is_empty())
                && !names_crate
                && given.iter().any(|given| text.contains(given.as_str()))
            {
                fields.insert(word.to_uppercase());
            }
        }
    }
    assert!(fields.contains("BLAT_TARGET") && fields.contains("BLAT_LOG"), "{fields:?}");
    assert_has("blat.1", &page("blat.1"), fields);
}

#[test]
fn every_message_stands_in_the_description_of_the_protocol() {
    let source = fs::read_to_string(Path::new(SOURCE).join("target/src/message.rs")).unwrap();
    let text = fs::read_to_string(Path::new(SOURCE).join("doc/protocol.md")).unwrap();
    let told = words(&text);
    for alternatives in ["pub enum ToTarget {", "pub enum ToHost {"] {
        let body = source.split(alternatives).nth(1).unwrap().split("\n}").next().unwrap();
        let names = body.lines().filter_map(|line| {
            let name = line.strip_prefix("    ")?.split(['(', ' ', ',']).next()?;
            name.starts_with(|first: char| first.is_ascii_uppercase()).then_some(name)
        });
        let names: Vec<&str> = names.collect();
        assert!(names.len() >= 9, "{names:?}");
        let missing: Vec<_> = names.iter().filter(|name| !told.contains(**name)).collect();
        assert!(missing.is_empty(), "doc/protocol.md does not tell of {missing:?}");
    }
}

#[test]
fn every_metric_and_option_stands_in_blat_web_8() {
    let code = fs::read_to_string(Path::new(SOURCE).join("src/web/metrics.rs")).unwrap();
    let metrics: BTreeSet<String> = code
        .split('"')
        .filter(|text| {
            text.starts_with("blat_") && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        })
        .map(str::to_owned)
        .collect();
    assert!(metrics.len() > 15, "{metrics:?}");
    let text = page("blat-web.8");
    assert_has("blat-web.8", section(&text, "METRICS").expect("metrics"), metrics);
    let said = Command::new(env!("CARGO_BIN_EXE_blat-web")).arg("--help").output().unwrap();
    let help = String::from_utf8(said.stdout).unwrap();
    let options: Vec<_> =
        words(&help).into_iter().filter(|word| word.starts_with("--")).map(str::to_owned).collect();
    let general = ["--help", "--version"];
    let own = options.into_iter().filter(|option| !general.contains(&option.as_str()));
    assert_has("blat-web.8", section(&text, "OPTIONS").expect("options"), own);
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn man_has_nothing_to_say_about_the_pages() {
    let pages = fs::read_dir(Path::new(SOURCE).join(MAN)).unwrap().map(|entry| entry.unwrap().path());
    let mut count = 0;
    for path in pages {
        let said = Command::new("man")
            .args(["--warnings", "--encoding=UTF-8", "-Tutf8", "-Z", "-l"])
            .arg(&path)
            .env("LC_ALL", "C.UTF-8")
            .env("MANROFFSEQ", "")
            .env("MANWIDTH", "80")
            .output()
            .expect("this test needs `man`: install Debian's package `man-db`");
        let words = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success() && words.is_empty(), "{}: {words}", path.display());
        count += 1;
    }
    assert!(count >= 5, "{count} pages");
}

#[test]
fn what_the_pages_refer_to_is_there() {
    for entry in fs::read_dir(Path::new(SOURCE).join(MAN)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let text = page(&name);
        for line in text.lines().filter(|line| line.starts_with(".BR blat")) {
            let mut parts = line[4..].split_whitespace();
            let (Some(of), Some(number)) = (parts.next(), parts.next()) else { continue };
            let Some(number) = number.strip_prefix('(').and_then(|rest| rest.split(')').next()) else {
                continue;
            };
            let file = Path::new(SOURCE).join(MAN).join(format!("{of}.{number}"));
            assert!(file.is_file(), "{name} refers to {of}({number}), which is not there");
        }
    }
}
