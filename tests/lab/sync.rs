//! Repository synchronisation: the database says what should be there, the target what is.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use crate::field::{Field, REAL_SOURCE, SOURCE, real_packages, seal, set_mode};
use crate::machines::{KNOWN_HOSTS, TRANSFER_USER, key_path, wait_until};
use crate::releases::{Releases, assert_password_unseen, release, with_the_password_unseen};

const SOON: Duration = Duration::from_secs(60);

type Ids = BTreeSet<String>;

/// A master with releases in its database, and a target that watches two projects.
struct Synced {
    source: Releases,
    field: Field,
    releases: Vec<Release>,
}

/// A release as it stands in the database: `PROJECT/NAME`, state, content.
#[derive(Clone)]
struct Release {
    name: String,
    state: char,
    content: Ids,
}

impl Synced {
    /// 3 projects of 4 releases each, one of them closed, over 300 of the real packages.
    fn new(name: &str) -> Self {
        Self::with(Field::new(name), |_| Releases::BuiltIn)
    }

    fn with(field: Field, source: impl FnOnce(&Field) -> Releases) -> Self {
        let source = source(&field);
        let ids: Vec<String> =
            real_packages(300).into_iter().map(|(package, version)| format!("{package}/{version}")).collect();
        field.master.write(
            "/root/ids",
            ids.join(
                "
",
            ),
            0o644,
        );
        field.master.sh(&format!("cd {REAL_SOURCE} && xargs -a /root/ids cp -a --parents -t {SOURCE}"));
        let mut releases = Vec::new();
        for (number, part) in ids.chunks(ids.len().div_ceil(12)).enumerate() {
            let state = ['N', 'R', 'C', 'Y'][number % 4];
            let name = format!("{}/{}", ["Bus", "Tram", "Ferry"][number / 4], number % 4);
            releases.push(Release { name, state, content: part.iter().cloned().collect() });
        }
        let synced = Self { source, field, releases };
        synced.import();
        let table = synced.source.table(&synced.field.master);
        synced.field.add_target("site1", SOURCE, &format!("projects = [\"Bus\", \"Tram\"]\n{table}"));
        synced.field.wait_connected("site1");
        synced.field.stop_timers();
        synced
    }

    fn import(&self) {
        let text = |each: &Release| release(&each.name, each.state, &each.content);
        let text: String = self.releases.iter().map(text).collect();
        self.source.import(&self.field.master, &text);
    }

    fn release(&mut self, name: &str) -> &mut Release {
        self.releases.iter_mut().find(|release| release.name == name).expect("a release of this name")
    }

    /// What the target should have: the open releases of its projects.
    fn wanted(&self) -> Ids {
        let watched = |release: &&Release| !release.name.starts_with("Ferry") && release.state != 'Y';
        self.releases.iter().filter(watched).flat_map(|release| release.content.clone()).collect()
    }

    /// Of these, the package-versions in which rsync finds a difference between source and target.
    fn differing(&self, ids: &Ids) -> Ids {
        self.judged(ids, "")
    }

    /// The same, by content.
    fn differing_to_the_byte(&self, ids: &Ids) -> Ids {
        self.judged(ids, "--checksum")
    }

    fn judged(&self, ids: &Ids, how: &str) -> Ids {
        let list = ids.iter().fold(String::new(), |list, id| list + id + "\n");
        self.field.master.write("/run/ids", list, 0o644);
        let ssh =
            format!("ssh -i {} -o UserKnownHostsFile={KNOWN_HOSTS} -l {TRANSFER_USER}", key_path("site1"));
        let said = self.field.master.sh(&format!(
            "rsync -a -r --no-o --no-g -n --itemize-changes --delete {how} --files-from=/run/ids -e '{ssh}' \
             {SOURCE} site1:dpkg_archive"
        ));
        let path = |line: &str| line.split_once(' ').expect("an itemized line").1.trim_start().to_owned();
        let paths = said.lines().map(path);
        paths.filter_map(|path| ids.iter().find(|id| is_in(&path, id)).cloned()).collect()
    }

    /// Synchronises, and returns how many packages and links were sent.
    fn sync(&self) -> (u64, u64) {
        let before = self.field.master.journal(&["-u", "blat@site1", "-o", "cat"]).lines().count();
        self.field.master.sh("systemctl start blat-sync@site1");
        let mut found = None;
        wait_until("the synchronisation is told", SOON, || {
            let journal = self.field.master.journal(&["-u", "blat@site1", "-o", "cat"]);
            found = journal.lines().skip(before).find_map(sent);
            found.is_some()
        });
        found.expect("just found")
    }

    /// Exactly these differ before a synchronisation, it sends as many, and none differs after.
    #[track_caller]
    fn brings(&self, expected: &[&str], counts: (u64, u64)) {
        let expected: Ids = expected.iter().map(|id| (*id).to_owned()).collect();
        assert_eq!(self.differing(&self.wanted()), expected, "before");
        assert_eq!(self.sync(), counts);
        assert_eq!(self.differing(&self.wanted()), Ids::new(), "after");
    }
}

fn is_in(path: &str, id: &str) -> bool {
    path == id || path.strip_prefix(id).is_some_and(|rest| rest.starts_with('/') || rest.starts_with(" ->"))
}

/// The counts of `synchronised: N packages sent (…), M links made, …`.
fn sent(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("synchronised: ")?;
    let (packages, rest) = rest.split_once(" packages sent")?;
    let (_, rest) = rest.split_once("), ")?;
    let (links, _) = rest.split_once(" links made")?;
    Some((packages.parse().ok()?, links.parse().ok()?))
}

#[test]
fn each_change_brings_exactly_what_it_should() {
    each_change_is_brought(Synced::new("sync"));
}

#[test]
fn each_change_is_brought_from_postgresql_and_its_password_is_never_seen() {
    let synced = Synced::with(Field::new("syncpg"), |field| Releases::on_postgresql(&field.lab));
    each_change_is_brought(synced);
}

fn each_change_is_brought(mut synced: Synced) {
    let begin = std::time::Instant::now();
    let wanted = synced.wanted();
    let first = match synced.source {
        Releases::BuiltIn => synced.sync(),
        Releases::Postgresql(_) => with_the_password_unseen(|| synced.sync()),
    };
    assert_eq!(first, (wanted.len() as u64, 0), "the first fills the target");
    println!("{} package-versions were sent after {:?}", first.0, begin.elapsed());
    assert_eq!(synced.differing_to_the_byte(&wanted), Ids::new());
    synced.brings(&[], (0, 0));
    a_dry_run_changes_nothing(&synced);
    a_rebuilt_version(&synced);
    a_removed_package(&synced);
    a_new_release_and_a_closed_one(&mut synced);
    links(&mut synced);
    a_writable_package(&mut synced);
    let text = fs::read_to_string(synced.field.archive("site1").join(".dpkg_archive/package_list.txt"));
    assert_eq!(text.expect("the PackageList").lines().count(), synced.wanted().len());
    assert_eq!(synced.differing_to_the_byte(&synced.wanted()), Ids::new());
    if matches!(synced.source, Releases::Postgresql(_)) {
        assert_password_unseen(&synced.field);
    }
    synced.field.assert_no_failed_unit();
    println!("all of it took {:?}", begin.elapsed());
}

fn a_dry_run_changes_nothing(synced: &Synced) {
    let id = first(synced);
    remove(synced, &id);
    let said = synced.field.master.sh("blat sync --dry-run site1");
    assert!(said.contains(&format!("send    {id}: missing, ")), "{said}");
    let json = synced.field.master.sh("blat sync --dry-run --json site1");
    assert!(json.contains("\"totals\""), "{json}");
    synced.brings(&[&id], (1, 0));
}

fn a_rebuilt_version(synced: &Synced) {
    let id = first(synced);
    let folder = synced.field.source().join(&id);
    set_mode(&folder, 0o755);
    fs::remove_file(folder.join("descpkg")).expect("an old descpkg");
    fs::write(folder.join("descpkg"), "built again\n").expect("a new descpkg");
    seal(&folder);
    synced.brings(&[&id], (1, 0));
}

fn a_removed_package(synced: &Synced) {
    let id = first(synced);
    remove(synced, &id);
    synced.brings(&[&id], (1, 0));
}

fn a_new_release_and_a_closed_one(synced: &mut Synced) {
    let ferry = synced.release("Ferry/0").content.clone();
    synced.releases.push(Release { name: "Tram/new".into(), state: 'N', content: ferry.clone() });
    let closed = synced.release("Bus/0");
    closed.state = 'O';
    let gone = std::mem::take(&mut closed.content);
    synced.import();
    let ids: Vec<&str> = ferry.iter().map(String::as_str).collect();
    synced.brings(&ids, (ids.len() as u64, 0));
    let kept = gone.iter().all(|id| synced.field.archive("site1").join(id).exists());
    assert!(kept, "what is in excess is left");
}

fn links(synced: &mut Synced) {
    let (package, old) =
        first(synced).split_once('/').map(|(p, v)| (p.to_owned(), v.to_owned())).expect("an id");
    synced.field.publish(&package, "99.0");
    synced.field.publish_link(&package, "current", &old);
    let link = format!("{package}/current");
    let new = format!("{package}/99.0");
    synced.release("Tram/new").content.insert(link.clone());
    synced.import();
    synced.brings(&[&link], (0, 1));
    let there = synced.field.archive("site1").join(&link);
    fs::remove_file(&there).expect("a link");
    synced.brings(&[&link], (0, 1));
    synced.field.publish_link(&package, "current", "99.0");
    assert_eq!(synced.sync(), (1, 1), "what the link addresses now comes with it");
    assert_eq!(synced.differing(&[link, new.clone()].into()), Ids::new());
    synced.release("Tram/new").content.insert(new);
    synced.import();
    synced.brings(&[], (0, 0));
}

fn a_writable_package(synced: &mut Synced) {
    let folder = synced.field.publish_open("open", "1.0", &[("a", "b")]);
    synced.release("Tram/new").content.insert("open/1.0".into());
    synced.import();
    assert_eq!(synced.sync(), (0, 0), "it waits");
    assert!(!synced.field.has("site1", "open", "1.0"));
    seal(&folder);
    synced.brings(&["open/1.0"], (1, 0));
}

fn first(synced: &Synced) -> String {
    synced.wanted().into_iter().next().expect("some package")
}

fn remove(synced: &Synced, id: &str) {
    synced.field.site.sh(&format!("rm -r /home/{TRANSFER_USER}/dpkg_archive/{id}"));
}

#[test]
fn signals_and_timers_start_synchronisations() {
    let synced = Synced::new("usr1");
    let field = &synced.field;
    field.add_target("site2", SOURCE, "projects = [\"Ferry\"]\n");
    field.wait_connected("site2");
    wait_until("the timer is active", SOON, || field.active("blat-sync@site2.timer") == "active");
    field.master.sh("systemctl kill -s USR1 blat@site1");
    let count = |target: &str| {
        let journal = field.master.journal(&["-u", &format!("blat@{target}"), "-o", "cat"]);
        journal.lines().filter(|line| sent(line).is_some()).count()
    };
    wait_until("site1 is synchronised", SOON, || count("site1") == 1);
    assert_eq!(count("site2"), 0);
    field.master.sh("systemctl kill -s USR1 'blat@*'");
    wait_until("both are synchronised", SOON, || count("site1") == 2 && count("site2") == 1);
}
