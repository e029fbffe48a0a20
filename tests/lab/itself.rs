//! The lab does what its users rely on.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::machines::{
    KNOWN_HOSTS, Lab, Link, Machine, Options, Rate, TRANSFER_USER, authorize, key_path, real_archive,
    wait_until,
};

#[test]
fn two_machines_boot_and_know_each_other() {
    let lab = Lab::new("boot");
    let begin = Instant::now();
    let [master, site] = lab.boot_all(["master", "site1"]);
    println!("two machines booted side by side in {:?}", begin.elapsed());
    assert_eq!(master.sh("cat /proc/1/comm"), "systemd");
    assert_eq!(site.sh("hostname"), "site1");
    master.sh("ping -c1 -W2 site1");
    site.sh("ping -c1 -W2 master");
    wait_until("sshd answers", Duration::from_secs(30), || {
        master.sh("nc -w1 site1 22 </dev/null || true").starts_with("SSH-2.0")
    });
}

#[test]
fn a_machine_keeps_its_disk_and_journal_over_reboot_and_power_cut() {
    let lab = Lab::new("power");
    let site = lab.boot("site1");
    site.write("/etc/kept", "kept", 0o600);
    site.sh("logger -t lab-test before the reboot; sync");
    let first = site.pid1();
    site.reboot();
    assert_ne!(site.pid1(), first);
    assert_eq!(site.sh("cat /etc/kept; stat -c %a /etc/kept"), "kept600");
    assert!(site.journal(&["-b", "-1", "-t", "lab-test"]).contains("before the reboot"));
    site.kill();
    assert!(!site.is_running());
    assert!(site.journal(&["-t", "lab-test"]).contains("before the reboot"));
    site.write("/etc/kept", "written while off", 0o600);
    site.start();
    assert_eq!(site.sh("cat /etc/kept"), "written while off");
}

#[test]
fn users_have_a_session_and_a_manager_of_their_own() {
    let lab = Lab::new("users");
    let [master, site] = lab.boot_all(["master", "site1"]);
    authorize(&master, &site);
    let ssh =
        format!("ssh -i {} -o UserKnownHostsFile={KNOWN_HOSTS} {TRANSFER_USER}@site1", key_path("site1"));
    assert_eq!(master.sh(&format!("{ssh} id -un")), TRANSFER_USER);
    site.sh(&format!("loginctl enable-linger {TRANSFER_USER}"));
    let script = "systemctl --user is-system-running --wait; pwd";
    assert_eq!(site.as_user(TRANSFER_USER, script), "running\n/home/pkgadmin");
    assert_eq!(master.sh(&format!("{ssh} systemctl --user is-system-running")), "running");
    assert_eq!(site.sh("stat -c '%a %U' /home/pkgadmin/.ssh/authorized_keys"), "600 pkgadmin");
    assert_eq!(master.sh("stat -c '%a %U' /etc/blat/keys/site1"), "600 root");
}

#[test]
fn a_power_cut_says_goodbye_to_nobody() {
    let lab = Lab::new("silence");
    let [master, site] = lab.boot_all(["master", "site1"]);
    for slow in [false, true] {
        let link = slow.then(|| lab.link(&master, &site, Rate::mbit(100), Duration::ZERO));
        let mut client = master.spawn(&["nc", "site1", "22"]);
        let connected = || master.sh("ss -Htn state established dport = 22");
        wait_until("nc is connected", Duration::from_secs(30), || connected().contains(":22"));
        site.kill();
        std::thread::sleep(Duration::from_millis(500));
        assert!(connected().contains(":22"), "slow: {slow}");
        assert!(client.try_wait().expect("a child").is_none());
        master.sh("pkill nc");
        client.wait().expect("a child");
        site.start();
        drop(link);
    }
}

#[test]
fn a_machine_may_reboot_by_itself() {
    let lab = Lab::new("reboot");
    let site = lab.boot("site1");
    let before = site.pid1();
    site.run(&["systemctl", "reboot"]);
    wait_until("it is up again", Duration::from_secs(90), || {
        site.leader().is_some_and(|pid1| pid1 != before)
            && site.run(&["systemctl", "is-system-running", "--wait"]).status.success()
    });
}

/// What blat's units will use of systemd, with the protections that they have.
#[test]
fn credentials_paths_and_protections_work() {
    let lab = Lab::new("systemd");
    let site = lab.boot("site1");
    site.write("/etc/secret", "for the service", 0o600);
    let said =
        site.sh("systemd-run --quiet --wait --pipe -p DynamicUser=yes -p LoadCredential=key:/etc/secret \
             -p ProtectSystem=strict -p PrivateDevices=yes -p PrivateTmp=yes -p NoNewPrivileges=yes \
             -p 'SystemCallFilter=@system-service' -p StateDirectory=lab -p Slice=blat-lab.slice \
             sh -c 'cat $CREDENTIALS_DIRECTORY/key; touch /etc/x || echo; cat /proc/self/cgroup' \
             2>/dev/null");
    assert!(said.starts_with("for the service\n"), "{said}");
    assert!(said.contains("/blat.slice/blat-lab.slice/run-"), "{said}");
    site.write("/etc/systemd/system/t.path", "[Path]\nDirectoryNotEmpty=/srv/tags\n", 0o644);
    let service = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'mv /srv/tags/* /srv'\n";
    site.write("/etc/systemd/system/t.service", service, 0o644);
    site.sh("mkdir /srv/tags; systemctl daemon-reload; systemctl start t.path; touch /srv/tags/a");
    wait_until("the path unit has fired", Duration::from_secs(30), || site.file("/srv/a").exists());
}

#[test]
fn a_pulled_cable_is_silent() {
    let lab = Lab::new("cable");
    let [master, site] = lab.boot_all(["master", "site1"]);
    site.plug(false);
    assert!(!master.run(&["ping", "-c1", "-W1", "site1"]).status.success());
    assert_eq!(site.sh("cat /sys/class/net/host0/carrier"), "1");
    site.plug(true);
    master.sh("ping -c1 -W2 site1");
    let (received, sent) = site.traffic();
    assert!(received > 0 && sent > 0);
}

#[test]
fn what_generators_say_to_the_kernel_log_can_be_read() {
    let lab = Lab::new("kmsg");
    let site = lab.boot("site1");
    site.write(
        "/etc/systemd/system-generators/test",
        "#!/bin/sh\necho '<4>test-generator: hello' >/dev/kmsg\n",
        0o755,
    );
    site.sh("systemctl daemon-reload");
    wait_until("the message is there", Duration::from_secs(20), || {
        site.kernel_log().contains("<4>test-generator: hello")
    });
}

/// How often a slow link is measured that is found to be another than was asked for.
const ATTEMPTS: usize = 5;

#[test]
fn a_slow_link_has_the_round_trip_and_rate_that_were_asked_for() {
    let lab = Lab::new("slow");
    let [master, site] = lab.boot_all(["master", "site1"]);
    for (mbit, rtt) in [(10, 50.0), (100, 20.0), (100, 50.0)] {
        let link = lab.link(&master, &site, Rate::mbit(mbit), Duration::from_millis(rtt as u64));
        let is_as_asked = || {
            let measured = ping(&master, "site1").as_secs_f64() * 1000.0;
            let full = flow(&master, &site, &link) / (mbit as f64 * 1e6);
            println!("{mbit} Mbit/s, {rtt} ms: ping {measured:.1} ms, line {:.1} % full", full * 100.0);
            (0.9..1.1).contains(&(measured / rtt)) && (0.9..1.01).contains(&full)
        };
        // Where other tests keep both cores busy, nobody can fill it, and what waited comes at once.
        assert!((0..ATTEMPTS).any(|_| is_as_asked()), "{mbit} Mbit/s, {rtt} ms: it is another link");
    }
}

/// The median round trip, once the machines know each other's hardware address.
fn ping(from: &Machine, to: &str) -> Duration {
    from.sh(&format!("ping -q -c1 -w10 {to}"));
    let said = from.sh(&format!("ping -c15 -i0.05 {to} | sed -n 's/.*time=\\(.*\\) ms$/\\1/p'"));
    let mut times: Vec<f64> = said.lines().filter_map(|time| time.parse().ok()).collect();
    times.sort_by(f64::total_cmp);
    Duration::from_secs_f64(times[times.len() / 2] / 1000.0)
}

/// Bits a second on the link while one TCP connection sends all it can, after its slow start.
fn flow(from: &Machine, to: &Machine, link: &Link) -> f64 {
    let mut sink = to.spawn(&["sh", "-c", "nc -l 5000 >/dev/null"]);
    wait_until("nc listens", Duration::from_secs(30), || to.sh("ss -Hltn sport = 5000").contains("5000"));
    let mut source = from.spawn(&["sh", "-c", "timeout 6 head -c 1G /dev/zero | nc site1 5000"]);
    std::thread::sleep(Duration::from_secs(2));
    let (begin, before) = (Instant::now(), link.bytes().0);
    std::thread::sleep(Duration::from_secs(3));
    let bits = (link.bytes().0 - before) as f64 * 8.0 / begin.elapsed().as_secs_f64();
    to.sh("pkill nc");
    source.wait().and_then(|_| sink.wait()).expect("both end");
    bits
}

#[test]
fn a_cut_link_is_silent_and_heals() {
    let lab = Lab::new("cut");
    let [master, site] = lab.boot_all(["master", "site1"]);
    let link = lab.link(&master, &site, Rate::mbit(100), Duration::from_millis(10));
    master.sh("ping -c1 -W2 site1");
    link.drop_all(true);
    assert!(!master.run(&["ping", "-c1", "-W1", "site1"]).status.success());
    link.drop_all(false);
    master.sh("ping -c1 -W2 site1");
    site.kill();
    site.start();
    assert!(ping(&master, "site1") > Duration::from_millis(9));
    drop(link);
    assert!(ping(&master, "site1") < Duration::from_millis(5));
}

#[test]
fn a_bound_folder_is_read_only() {
    let lab = Lab::new("bind");
    let from = lab.dir().join("shown");
    fs::create_dir(&from).expect("a folder");
    fs::write(from.join("file"), "seen").expect("a file");
    let site = lab.boot_with("site1", Options::default().bind_ro(&from, "/data"));
    assert_eq!(site.sh("cat /data/file"), "seen");
    assert!(!site.run(&["touch", "/data/other"]).status.success());
}

#[test]
fn a_lab_that_panics_leaves_nothing() {
    let lab = Lab::new("panic");
    let dir = lab.dir().to_owned();
    let end = std::thread::spawn(move || {
        let _site = lab.boot("site1");
        panic!("on purpose");
    });
    assert!(end.join().is_err());
    assert_eq!(traces(&dir), Vec::<PathBuf>::new());
}

#[test]
fn a_killed_test_leaves_nothing() {
    let (mut test, dir) = start_victim();
    test.kill().and_then(|()| test.wait()).expect("killed");
    wait_until("the guard has cleared up", Duration::from_secs(10), || traces(&dir).is_empty());
}

#[test]
fn the_next_lab_clears_up_when_the_guard_was_killed_too() {
    let (mut test, dir) = start_victim();
    for guard in guards_of(&test) {
        kill(guard, Signal::SIGKILL).expect("killed");
    }
    test.kill().and_then(|()| test.wait()).expect("killed");
    assert!(!traces(&dir).is_empty());
    let _next = Lab::new("next");
    assert_eq!(traces(&dir), Vec::<PathBuf>::new());
}

/// Not a test: what the tests above kill.
#[test]
#[ignore = "waits to be killed"]
fn victim() {
    let lab = Lab::new("victim");
    let _site = lab.boot("site1");
    println!("\nup: {}", lab.dir().display());
    std::thread::sleep(Duration::from_secs(60));
}

fn start_victim() -> (Child, PathBuf) {
    let mut test = Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "itself::victim", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts");
    let said = BufReader::new(test.stdout.take().expect("piped"));
    let mut lines = said.lines().map_while(Result::ok);
    let dir = lines.find_map(|line| line.strip_prefix("up: ").map(PathBuf::from));
    (test, dir.expect("the victim's lab is up"))
}

/// The processes that `test` itself has started, the machines' aside.
fn guards_of(test: &Child) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{}/task", test.id())).expect("it runs");
    let children = tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .collect::<String>();
    let pids = children.split_whitespace();
    pids.filter(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline"));
        line.is_ok_and(|line| line.contains("lab-guard"))
    })
    .map(|pid| Pid::from_raw(pid.parse().expect("a number")))
    .collect()
}

/// What is still there of the lab whose folder was `dir`.
fn traces(dir: &Path) -> Vec<PathBuf> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let group = format!("blat-lab-{name}");
    let tops = ["", "unified", "systemd"].map(|top| Path::new("/sys/fs/cgroup").join(top));
    let groups = tops.iter().map(|top| top.join(&group));
    groups.chain([dir.to_owned()]).filter(|path| path.exists()).collect()
}

#[test]
fn the_real_archive_is_large_and_sealed() {
    let archive = real_archive();
    let lab = Lab::new("archive");
    let master = lab.boot_with("master", Options::default().bind_ro(&archive, "/srv/dpkg_archive"));
    let count = |what: &str| -> u32 {
        let found = master.sh(&format!("find /srv/dpkg_archive -mindepth 3 {what} | wc -l"));
        found.parse().expect("a number")
    };
    assert!(count("-type f") > 20_000);
    assert!(count("-maxdepth 3 -name descpkg") > 400);
    assert_eq!(count("-maxdepth 3 -name descpkg"), count("-maxdepth 3 -name read-me-first -type l"));
    assert_eq!(count("-not -type l -perm /222"), 0);
    let described = master.sh("find /srv/dpkg_archive -name descpkg | head -1");
    let meta = fs::metadata(master.root().join(&described[1..])).expect("it is there");
    assert_ne!(meta.mtime_nsec(), 0);
    assert_eq!(meta.permissions().mode() & 0o7777, 0o444);
}
