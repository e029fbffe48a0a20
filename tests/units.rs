//! The units as installed: systemd finds nothing to say about them, and they expose little.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use blat::notify;
use blat::places::Places;
use tempfile::TempDir;

const SOURCE: &str = env!("CARGO_MANIFEST_DIR");

/// At most this, in tenths, of 10, by `systemd-analyze security`;
const EXPOSURE: u32 = 15;
/// and this where each start counts: the unit says what is left out, and why.
const EXPOSURE_OF_FAST: u32 = 20;

fn systemd_analyze(arguments: &[&str]) -> Output {
    let found = Command::new("systemd-analyze").args(arguments).env("SYSTEMD_COLORS", "0").output();
    found.expect("these tests need `systemd-analyze`: install Debian's package `systemd`")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn program(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "#!/bin/sh\n").unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// A root in which blat was installed, its programs empty ones.
fn installed() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let built = root.path().join("built");
    let programs = ["blat", "blat-agent", "blat-web", "blat-generator", "blat-target"];
    programs.iter().for_each(|name| program(&built.join(name)));
    let make = Command::new("make")
        .current_dir(SOURCE)
        .args(["-s", "-f", "packaging/install.mk", "install"])
        .arg(format!("DESTDIR={}", root.path().display()))
        .arg(format!("HOST_BUILD={}", built.display()))
        .arg(format!("HELPER={}", built.join("blat-target").display()))
        .output()
        .expect("these tests need `make`");
    assert!(make.status.success(), "{}", text(&make));
    root
}

/// What systemd itself brings and our units name, so that `verify` finds it in the root.
fn with_systemd(root: &Path) {
    program(&root.join("bin/sh"));
    for name in fs::read_dir("/usr/lib/systemd/system").expect("install Debian's package `systemd`") {
        let name = name.unwrap();
        if [".target", ".slice", ".mount"].iter().any(|end| name.file_name().to_string_lossy().ends_with(end))
        {
            let _ = fs::copy(name.path(), root.join("usr/lib/systemd/system").join(name.file_name()));
        }
    }
}

fn units(root: &Path) -> Vec<String> {
    let ours = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let listed = fs::read_dir(root.join("usr/lib/systemd/system")).unwrap();
    listed.map(|entry| ours(entry.unwrap().path())).filter(|name| name.starts_with("blat")).collect()
}

fn verify(root: &Path, instance: &str) -> String {
    let root_argument = format!("--root={}", root.display());
    let names: Vec<String> =
        units(root).iter().map(|name| name.replace('@', &format!("@{instance}"))).collect();
    let mut arguments = vec!["verify", "--man=no", "--generators=no", &root_argument];
    arguments.extend(names.iter().filter(|name| !name.ends_with(".d")).map(String::as_str));
    text(&systemd_analyze(&arguments))
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    let root = installed();
    with_systemd(root.path());
    assert_eq!(units(root.path()).len(), 19);
    assert_eq!(verify(root.path(), "site1"), "");
}

/// What they call is blat's own, or of packages that each machine with systemd has.
#[test]
fn the_units_call_no_program_that_a_machine_may_lack() {
    for unit in fs::read_dir(Path::new(SOURCE).join("units")).unwrap() {
        let text = fs::read_to_string(unit.unwrap().path()).unwrap();
        for line in text.lines().filter(|line| line.starts_with("Exec")) {
            let program =
                line.split_once('=').unwrap().1.trim_start_matches(['-', '+']).split(' ').next().unwrap();
            let ours = program == "/usr/bin/blat" || program.starts_with("/usr/lib/blat/");
            assert!(ours || ["/bin/sh", "/usr/bin/nsenter"].contains(&program), "{line}");
        }
    }
}

#[test]
fn systemd_would_tell_of_an_unknown_key() {
    let root = installed();
    with_systemd(root.path());
    let unit = root.path().join("usr/lib/systemd/system/blat-tags@.timer");
    let text = fs::read_to_string(&unit).unwrap() + "Nonsense=1\n";
    fs::write(&unit, text).unwrap();
    assert!(verify(root.path(), "site1").contains("Nonsense"));
}

#[test]
fn drop_ins_with_odd_paths_are_valid_units() {
    let root = installed();
    with_systemd(root.path());
    let targets = root.path().join("etc/blat/targets");
    let text = "source = '/srv/a'\nprojects = ['p']\nverbosity = 'trace'\n[ssh]\nhost = 'h'\nidentity = '/etc/100% a'\n\
        [tags]\ndirectory = '/srv/the \"new\" 100%; tags'\npolling = 'always'\npoll = 90\n\
        [sync]\nperiod = '1h'\n[release]\npassword_file = '/etc/the 100% word'\n";
    fs::write(targets.join("site-1.toml"), text).unwrap();
    let (output, problems) = blat::generator::plan(root.path());
    assert!(problems.is_empty() && output.len() == 11, "{problems:?} {output:?}");
    blat::generator::write(&output, &root.path().join("usr/lib/systemd/system")).unwrap();
    fs::remove_dir_all(root.path().join("usr/lib/systemd/system/blat.target.wants")).unwrap();
    fs::remove_dir_all(root.path().join("usr/lib/systemd/system/blat@site-1.service.wants")).unwrap();
    assert_eq!(verify(root.path(), "site-1"), "");
}

/// A root of a target machine that an administrator manages.
fn target_installed() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let helper = root.path().join("built/blat-target");
    program(&helper);
    let make = Command::new("make")
        .current_dir(SOURCE)
        .args(["-s", "-f", "packaging/install.mk", "install-target"])
        .arg(format!("DESTDIR={}", root.path().display()))
        .arg(format!("HELPER={}", helper.display()))
        .output()
        .expect("these tests need `make`");
    assert!(make.status.success(), "{}", text(&make));
    root
}

#[test]
fn systemd_has_nothing_to_say_about_the_units_of_a_target() {
    let root = target_installed();
    with_systemd(root.path());
    assert_eq!(units(root.path()).len(), 4);
    assert_eq!(verify(root.path(), ""), "");
    let unit = root.path().join("usr/lib/systemd/system/blat-purge.timer");
    fs::write(&unit, fs::read_to_string(&unit).unwrap() + "Nonsense=1\n").unwrap();
    assert!(verify(root.path(), "").contains("Nonsense"));
}

#[test]
fn systemd_has_nothing_to_say_about_the_units_of_a_transfer_user() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(SOURCE).join("target/units/user");
    let mut names = Vec::new();
    for unit in fs::read_dir(source).unwrap() {
        let (path, name) = (unit.as_ref().unwrap().path(), unit.unwrap().file_name());
        let text = fs::read_to_string(path).unwrap().replace("%h/bin/blat-target", "/bin/true");
        fs::write(folder.path().join(&name), text).unwrap();
        names.push(folder.path().join(name).display().to_string());
    }
    assert_eq!(names.len(), 4);
    let mut command = Command::new("systemd-analyze");
    // It wants a folder of the user's own, and some have none.
    command.env("XDG_RUNTIME_DIR", folder.path()).env("SYSTEMD_COLORS", "0");
    let said = command.args(["--user", "verify", "--man=no", "--generators=no"]).args(names).output();
    assert_eq!(text(&said.expect("Debian's package `systemd` has it")), "");
}

#[test]
fn every_service_exposes_little() {
    let folders =
        ["units", "target/units"].map(|folder| fs::read_dir(Path::new(SOURCE).join(folder)).unwrap());
    for unit in folders.into_iter().flatten() {
        let path = unit.unwrap().path();
        // That one runs a command of the administrator's.
        let is_notify = path.ends_with("blat-notify@.service");
        if path.extension().is_some_and(|end| end == "service") && !is_notify {
            let path = path.to_string_lossy();
            let is_fast = path.ends_with("/blat-transfer@.service");
            let threshold = format!("--threshold={}", if is_fast { EXPOSURE_OF_FAST } else { EXPOSURE });
            let output = systemd_analyze(&["security", "--no-pager", "--offline=true", &threshold, &path]);
            assert!(output.status.success(), "{path}: {}", text(&output));
        }
    }
}

/// By whatever user, and before the command of an administrator's.
#[test]
fn who_is_about_to_tell_a_person_takes_the_agents_note_away() {
    let unit = fs::read_to_string(Path::new(SOURCE).join("units/blat-notify@.service")).unwrap();
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStartPre=-+/bin/sh -c '"));
    let command = command.and_then(|rest| rest.strip_suffix('\'')).expect("it is there");
    let root = tempfile::tempdir().unwrap();
    let places = Places::of(root.path(), &"site1".parse().unwrap());
    fs::create_dir_all(&places.runtime).unwrap();
    notify::call(&places, "a tag is rejected");
    assert!(places.untold().exists());
    let run = format!("{}/run/", root.path().display());
    // Of a unit that failed, there is none.
    for instance in ["blat-sync@site1.service", "site1"] {
        let command = command.replace("%i", instance).replace("/run/", &run);
        assert!(Command::new("/bin/sh").arg("-c").arg(command).status().unwrap().success());
    }
    assert!(!places.untold().exists() && places.person().exists());
}

/// The network, the mail queue, and a mailer that is root's or a group's.
#[test]
fn a_command_that_tells_a_person_is_not_kept_from_it() {
    let unit = fs::read_to_string(Path::new(SOURCE).join("units/blat-notify@.service")).unwrap();
    // Without these, `man systemd.exec` knows of nothing that keeps what is set-user-ID or set-group-ID from it.
    let keys = "CapabilityBoundingSet DynamicUser IPAddressDeny LockPersonality MemoryDenyWriteExecute \
        NoNewPrivileges PrivateDevices PrivateNetwork PrivateUsers ProtectClock ProtectHostname ProtectKernelLogs \
        ProtectKernelModules ProtectKernelTunables RestrictAddressFamilies RestrictNamespaces RestrictRealtime \
        RestrictSUIDSGID SystemCallArchitectures SystemCallFilter SystemCallLog";
    for line in unit.lines() {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let hinders = keys.split_whitespace().any(|one| one == key) || line == "ProtectSystem=strict";
        assert!(!hinders, "{key}={value}");
    }
}

/// What the generator leaves out because the templates say it must be what is built in.
#[test]
fn the_templates_say_what_is_built_in() {
    let unit = |name: &str| fs::read_to_string(Path::new(SOURCE).join("units").join(name)).unwrap();
    let has =
        |name: &str, line: &str| assert!(unit(name).lines().any(|found| found == line), "{name}: {line}");
    has("blat@.service", "LoadCredential=identity:/etc/blat/keys/%i");
    has("blat-tags@.path", "DirectoryNotEmpty=/var/lib/blat/tags/%i");
    has("blat-tags@.path", "PathChanged=/run/blat/%i/transfer");
    has("blat-tags@.timer", "OnActiveSec=5s");
    has("blat-tags@.timer", "OnUnitInactiveSec=5s");
    has("blat-sync@.timer", "OnUnitInactiveSec=4h");
    has("blat-transfer@.service", "ConditionDirectoryNotEmpty=|/var/lib/blat/tags/%i");
    has("blat-transfer@.service", "ConditionPathExists=|/run/blat/%i/transfer");
    has("blat-transfer@.service", "ReadWritePaths=-/var/lib/blat/tags/%i -/run/blat/%i");
}

/// An agent that dies again and again takes them with it, and brings them up again, each time.
#[test]
fn what_comes_and_goes_with_the_agent_starts_however_often() {
    let mut bound = Vec::new();
    for unit in fs::read_dir(Path::new(SOURCE).join("units")).unwrap() {
        let path = unit.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let has = |line: &str| text.lines().any(|found| found == line);
        if has("BindsTo=blat@%i.service") {
            assert!(has("StartLimitIntervalSec=0"), "{}", path.display());
            bound.push(path);
        }
    }
    assert_eq!(bound.len(), 5, "{bound:?}");
}

#[test]
fn another_prefix_reaches_the_units() {
    let root = tempfile::tempdir().unwrap();
    let make = Command::new("make")
        .current_dir(SOURCE)
        .args(["-s", "-f", "packaging/install.mk", "install-units", "PREFIX=/usr/local"])
        .arg(format!("DESTDIR={}", root.path().display()))
        .output()
        .expect("these tests need `make`");
    assert!(make.status.success(), "{}", text(&make));
    let units = root.path().join("usr/local/lib/systemd/system");
    for (unit, command) in [
        ("blat@.service", "/usr/local/lib/blat/blat-agent %i"),
        ("blat-sync@.service", "/usr/local/bin/blat sync %i"),
    ] {
        let text = fs::read_to_string(units.join(unit)).unwrap();
        assert!(text.contains(&format!("ExecStart={command}\n")), "{text}");
    }
}

/// The units name no helper.
#[test]
fn a_program_below_another_prefix_puts_the_helper_there_that_was_installed_with_it() {
    let prefix = tempfile::tempdir().unwrap();
    let (blat, helper) = (prefix.path().join("bin/blat"), prefix.path().join("lib/blat/blat-target"));
    program(&helper);
    program(&blat);
    fs::copy(env!("CARGO_BIN_EXE_blat"), &blat).unwrap();
    let said = text(&Command::new(&blat).args(["transfer", "--help"]).output().unwrap());
    assert!(said.contains(&format!("[default: {}]", helper.display())), "{said}");
    fs::remove_file(helper).unwrap();
    let said = text(&Command::new(&blat).args(["transfer", "--help"]).output().unwrap());
    assert!(said.contains("[default: /usr/lib/blat/blat-target]"), "{said}");
}
