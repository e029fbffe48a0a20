//! A master and a site as in the field: blat installed, a target configured, an archive to
//! send from, and the judges that compare what arrived with what was published.

#![allow(dead_code, reason = "shared by several crates, none of which uses all of it")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::machines::{
    KNOWN_HOSTS, Lab, Link, Machine, Options, Rate, TRANSFER_USER, authorize, install, key_path,
    real_archive, wait_until,
};

/// Where the master's own archive lies, and where the real packages can be read there.
pub(crate) const SOURCE: &str = "/srv/dpkg_archive";
pub(crate) const REAL_SOURCE: &str = "/srv/real_archive";

/// A booted master with blat, and a site that it may log in to. Nothing is configured yet.
pub(crate) struct Field {
    pub(crate) lab: Lab,
    pub(crate) master: Machine,
    pub(crate) site: Machine,
}

impl Field {
    pub(crate) fn new(name: &str) -> Self {
        let lab = Lab::new(name);
        let options = Options::default().bind_ro(real_archive(), REAL_SOURCE);
        let master = lab.boot_with("master", options);
        let site = lab.boot("site1");
        authorize(&master, &site);
        install(&master);
        master.sh(&format!("mkdir -p {SOURCE} && systemctl enable --now blat.target blat-config.path"));
        Self { lab, master, site }
    }

    /// A field whose target `site1` sends from [`SOURCE`] and is connected.
    pub(crate) fn with_target(name: &str) -> Self {
        let field = Self::new(name);
        field.add_target("site1", SOURCE, "");
        field.wait_connected("site1");
        field
    }

    /// Configures the target `name`: an archive of its own in the home of the site's transfer user.
    pub(crate) fn add_target(&self, name: &str, source: &str, more: &str) {
        self.site.as_user(TRANSFER_USER, &format!("mkdir -p {}", archive_name(name)));
        self.write_target(name, source, more);
    }

    /// Changes a unit of the master, as an administrator does.
    pub(crate) fn drop_in(&self, unit: &str, name: &str, text: &str) {
        self.master.write(&format!("/etc/systemd/system/{unit}.d/{name}.conf"), text, 0o644);
        self.master.sh("systemctl daemon-reload");
    }

    pub(crate) fn write_target(&self, name: &str, source: &str, more: &str) {
        let text = format!(
            "source = {source:?}\n{more}\n[ssh]\nhost = \"site1\"\nidentity = \"/etc/blat/keys/site1\"\n\
             [target]\narchive = {:?}\n",
            archive_name(name)
        );
        self.master.write(&format!("/etc/blat/targets/{name}.toml"), text, 0o644);
    }

    /// Lays a line between master and site, over which these targets' connections go from then on.
    pub(crate) fn lay_line(&self, (rate, round_trip): (Rate, Duration), targets: &[impl AsRef<str>]) -> Link {
        let link = self.lab.link(&self.master, &self.site, rate, round_trip);
        self.master.sh("systemctl restart 'blat@*.service'");
        targets.iter().for_each(|target| self.wait_connected(target.as_ref()));
        link
    }

    /// Has no target synchronised by itself, which would go on beside what is measured or counted. The timers come
    /// with each start of an agent, and go off some time within the first half hour.
    pub(crate) fn stop_timers(&self) {
        self.master.sh("systemctl stop 'blat-sync@*.timer'");
    }

    pub(crate) fn wait_connected(&self, target: &str) {
        wait_until(&format!("{target} is connected"), Duration::from_secs(60), || {
            self.status_text(target).starts_with("connected")
        });
    }

    /// What `systemctl status` shows as the target's state.
    pub(crate) fn status_text(&self, target: &str) -> String {
        self.master.sh(&format!("systemctl show -P StatusText blat@{target}"))
    }

    /// Whether the unit is `active`, `failed`, …
    pub(crate) fn active(&self, unit: &str) -> String {
        self.master.sh(&format!("systemctl is-active {unit} || true"))
    }

    /// Where the host finds the target's archive.
    pub(crate) fn archive(&self, target: &str) -> PathBuf {
        self.site.file(&format!("/home/{TRANSFER_USER}/{}", archive_name(target)))
    }

    /// Makes a small sealed package-version in [`SOURCE`], and returns where.
    pub(crate) fn publish(&self, package: &str, version: &str) -> PathBuf {
        let folder = self.publish_open(package, version, &[("data/content", "some content")]);
        seal(&folder);
        folder
    }

    /// Makes a package-version that is still writable.
    pub(crate) fn publish_open(&self, package: &str, version: &str, files: &[(&str, &str)]) -> PathBuf {
        let folder = self.source().join(package).join(version);
        fs::create_dir_all(&folder).expect("the source archive can be written");
        let descpkg = format!("{package} {version}\n");
        for (name, content) in files.iter().chain([&("descpkg", descpkg.as_str())]) {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
            fs::write(path, content).expect("a file");
        }
        folder
    }

    /// Makes a link in a version's place.
    pub(crate) fn publish_link(&self, package: &str, version: &str, text: &str) {
        let folder = self.source().join(package);
        fs::create_dir_all(&folder).expect("the source archive can be written");
        let draft = folder.join(".link");
        symlink(text, &draft).and_then(|()| fs::rename(&draft, folder.join(version))).expect("a link");
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.master.file(SOURCE)
    }

    /// Drops a tag as a build machine's publisher does.
    pub(crate) fn tag(&self, target: &str, package: &str, version: &str) {
        let path = format!("/var/lib/blat/tags/{target}/{package}::{version}");
        fs::write(self.master.file(&path), "").unwrap_or_else(|why| panic!("{path}: {why}"));
    }

    /// Whether `package/version` is visible in the target's archive.
    pub(crate) fn has(&self, target: &str, package: &str, version: &str) -> bool {
        fs::symlink_metadata(self.archive(target).join(package).join(version)).is_ok()
    }

    pub(crate) fn wait_for(&self, target: &str, package: &str, version: &str, limit: Duration) {
        wait_until(&format!("{package}/{version} is on {target}"), limit, || {
            self.has(target, package, version)
        });
    }

    /// Tags that are neither done nor rejected.
    pub(crate) fn open_tags(&self, target: &str) -> usize {
        let directory = self.master.file(&format!("/var/lib/blat/tags/{target}"));
        let count = |path: &Path| {
            let names = fs::read_dir(path).into_iter().flatten().flatten().map(|item| item.file_name());
            names.filter(|name| !name.as_bytes().starts_with(b".")).count()
        };
        count(&directory) + count(&directory.join(".claimed"))
    }

    /// Waits until no transfer to the target runs.
    pub(crate) fn wait_idle(&self, target: &str) {
        let unit = format!("blat-transfer@{target}.service");
        wait_until("the transfer has ended", Duration::from_secs(60), || self.active(&unit) != "activating");
    }

    pub(crate) fn wait_no_tags(&self, target: &str, limit: Duration) {
        wait_until(&format!("no tag for {target} is left"), limit, || self.open_tags(target) == 0);
    }

    /// Hidden entries below the target's package folders: staging that was left.
    pub(crate) fn staging(&self, target: &str) -> Vec<PathBuf> {
        let packages = fs::read_dir(self.archive(target)).into_iter().flatten().flatten();
        let inside = packages.filter(|package| package.file_name() != ".dpkg_archive").flat_map(|package| {
            fs::read_dir(package.path()).into_iter().flatten().flatten().map(|version| version.path())
        });
        inside.filter(|path| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"."))).collect()
    }

    /// Panics unless no staging and no record of it or of a session is left on the site: a later session
    /// clears what a killed one left, so there is one more.
    pub(crate) fn assert_nothing_left(&self, target: &str) {
        self.publish("last", "1.0");
        let own = self.archive(target).join(".dpkg_archive");
        let left = || {
            let records =
                ["sessions", "partial"].map(|name| fs::read_dir(own.join(name)).into_iter().flatten());
            let records = records.into_iter().flatten().flatten().map(|item| item.path());
            self.staging(target).into_iter().chain(records).collect::<Vec<_>>()
        };
        self.tag(target, "last", "1.0");
        self.wait_no_tags(target, Duration::from_secs(20));
        let begin = std::time::Instant::now();
        while !left().is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(20), "left behind: {:?}", left());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Panics when a unit of the master is, or stays, `failed`.
    pub(crate) fn assert_no_failed_unit(&self) {
        wait_until("no unit is failed", Duration::from_secs(10), || self.failed_units().is_empty());
    }

    pub(crate) fn failed_units(&self) -> String {
        self.master.sh("systemctl list-units --failed --plain --no-legend")
    }

    /// How often `text` stands in the journal of `unit`.
    pub(crate) fn count(&self, unit: &str, text: &str) -> usize {
        self.master.journal(&["-u", unit, "-o", "cat"]).lines().filter(|line| line.contains(text)).count()
    }

    /// How often the target was found to be worth several connections.
    pub(crate) fn widened(&self, target: &str) -> usize {
        self.count(&format!("blat@{target}"), "the line takes more than one connection carries")
    }

    /// Has each start of a transfer counted from now on, by systemd itself.
    pub(crate) fn count_starts(&self) {
        let drop_in = "[Service]\nExecStartPre=+/bin/sh -c 'echo >>/var/lib/blat/starts-%i'\n";
        self.drop_in("blat-transfer@.service", "count", drop_in);
    }

    /// How many transfers were started since.
    pub(crate) fn starts(&self, target: &str) -> usize {
        fs::read(self.master.file(&format!("/var/lib/blat/starts-{target}"))).map_or(0, |lines| lines.len())
    }

    /// All that the master's journal has of blat's units.
    pub(crate) fn all_lines(&self) -> String {
        self.master.journal(&["-u", "blat*", "-o", "cat"])
    }

    /// How many lines that is, once nothing accepts configuration any more: that goes on for a moment after
    /// a target's agent is there, and has lines of its own. Without what only a container makes systemd say.
    pub(crate) fn lines(&self) -> usize {
        wait_until("the configuration is accepted", Duration::from_secs(20), || {
            let running = ["blat-config.service", "blat-config-again.service"].map(|unit| self.active(unit));
            running.iter().all(|state| state == "inactive")
                && self.master.sh("systemctl list-jobs --no-legend 'blat-config*'").is_empty()
        });
        let container = "Failed to configure loopback network device";
        self.all_lines().lines().filter(|line| !line.contains(container)).count()
    }

    /// Panics unless each package-version of the target's archive is what `source` (a path of the
    /// master) has: by rsync's judgement, and by kinds, modes and times to the nanosecond.
    pub(crate) fn assert_equal(&self, target: &str, source: &str, ids: &[(String, String)]) {
        self.judge(target, source, ids);
        for (package, version) in ids {
            let from = self.master.file(source).join(package).join(version);
            let to = self.archive(target).join(package).join(version);
            let (from, to) = (snapshot(&from), snapshot(&to));
            for (path, entry) in &from {
                let what = || format!("{package}/{version}: {} differs", path.display());
                assert_eq!(Some(entry), to.get(path), "{}", what());
            }
            assert_eq!(from.len(), to.len(), "{package}/{version} has other entries");
        }
    }

    /// rsync, of another making than blat, finds nothing to do.
    fn judge(&self, target: &str, source: &str, ids: &[(String, String)]) {
        let ssh =
            format!("ssh -i {} -o UserKnownHostsFile={KNOWN_HOSTS} -l {TRANSFER_USER}", key_path("site1"));
        let archive = archive_name(target);
        let list: String = ids.iter().map(|(package, version)| format!("{package}/{version}/\n")).collect();
        self.master.write("/run/judge", list, 0o644);
        let said = self.master.sh(&format!(
            "rsync -a -r --no-o --no-g -n --itemize-changes --delete --checksum --no-implied-dirs \
             --files-from=/run/judge -e '{ssh}' {source} site1:{archive} 2>&1"
        ));
        assert!(said.is_empty(), "what arrived differs from what was published:\n{said}");
    }
}

/// The archive of a target, as its configuration calls it.
pub(crate) fn archive_name(target: &str) -> String {
    if target == "site1" { "dpkg_archive".into() } else { format!("dpkg_archive_{target}") }
}

/// Each entry of a tree: mode with kind, size of files, time in nanoseconds, text of links.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, i64, Option<PathBuf>)> {
    let mut all = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        let at = root.join(&path);
        let found = fs::symlink_metadata(&at).unwrap_or_else(|why| panic!("{}: {why}", at.display()));
        if found.is_dir() {
            let items = fs::read_dir(&at).expect("a readable folder");
            open.extend(items.map(|item| path.join(item.expect("an entry").file_name())));
        }
        let size = if found.is_file() { found.len() } else { 0 };
        let text = found.is_symlink().then(|| fs::read_link(&at).expect("a link"));
        all.insert(path, (found.mode(), size, found.mtime(), found.mtime_nsec(), text));
    }
    all
}

/// Takes away every write bit, as a release does.
pub(crate) fn seal(folder: &Path) {
    for item in fs::read_dir(folder).expect("a readable folder").flatten() {
        let kind = item.file_type().expect("a kind");
        if kind.is_dir() {
            seal(&item.path());
        } else if kind.is_file() {
            set_mode(&item.path(), 0o444);
        }
    }
    set_mode(folder, 0o555);
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode can be set");
}

/// So many package-versions of the real archive, from all over it.
pub(crate) fn real_packages(count: usize) -> Vec<(String, String)> {
    let mut ids = Vec::new();
    for package in fs::read_dir(real_archive()).expect("the real archive").flatten() {
        for version in fs::read_dir(package.path()).expect("a package").flatten() {
            ids.push((
                package.file_name().into_string().expect("plain names"),
                version.file_name().into_string().expect("plain names"),
            ));
        }
    }
    ids.sort();
    let count = count.min(ids.len());
    (0..count).map(|nth| ids[nth * ids.len() / count].clone()).collect()
}
