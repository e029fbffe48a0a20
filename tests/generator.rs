//! Golden directories: `tests/generator/CASE/root` is a machine's root, `expected` what the generator
//! makes of it: each entry's path, then its text or where it points. `BLESS=1` writes it anew.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use blat::generator::{Entry, read_back};

fn shown(directory: &Path, stderr: &str) -> String {
    let mut text = String::new();
    for (path, entry) in read_back(directory) {
        match entry {
            Entry::Link(to) => writeln!(text, "== {} -> {}", path.display(), to.display()).unwrap(),
            Entry::File(lines) => write!(text, "== {}\n{lines}", path.display()).unwrap(),
        }
    }
    stderr.lines().for_each(|line| writeln!(text, "!! {line}").unwrap());
    text
}

fn run(root: &Path) -> String {
    let made = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_blat-generator"))
        .arg(format!("--root={}", root.display()))
        .args([made.path(), made.path(), made.path()])
        .output()
        .unwrap();
    assert!(output.status.success());
    shown(made.path(), &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn each_case_makes_what_is_expected() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/generator");
    let mut seen = 0;
    for case in fs::read_dir(cases).unwrap() {
        let case = case.unwrap().path();
        let found = run(&case.join("root"));
        if std::env::var_os("BLESS").is_some() {
            fs::write(case.join("expected"), &found).unwrap();
        }
        let expected = fs::read_to_string(case.join("expected")).unwrap();
        assert_eq!(found, expected, "{}", case.display());
        seen += 1;
    }
    assert!(seen >= 5);
}

#[test]
fn an_empty_machine_makes_nothing() {
    assert_eq!(run(tempfile::tempdir().unwrap().path()), "");
}

#[test]
fn every_one_of_many_targets_gets_its_units() {
    let root = tempfile::tempdir().unwrap();
    let targets = root.path().join("etc/blat/targets");
    fs::create_dir_all(&targets).unwrap();
    for number in 0..200 {
        let text = "source = '/srv/a'\nssh.host = 'h'\ntags.directory = '/srv/{target}'\n";
        fs::write(targets.join(format!("site{number}.toml")), text).unwrap();
    }
    let text = run(root.path());
    assert_eq!(text.matches(" -> ").count(), 200);
    assert_eq!(text.matches(".path.d/50-blat.conf").count(), 200);
}
