//! The list of keys: what each takes, said to whoever wrote something else.

/// One key, as a person writes it, and the form of its value.
pub(super) struct Key {
    pub(super) path: &'static str,
    pub(super) takes: &'static str,
}

const fn key(path: &'static str, takes: &'static str) -> Key {
    Key { path, takes }
}

const LOCAL_PATH: &str =
    "give an absolute path, such as \"/srv/dpkg_archive\"; `{target}` stands for the target's name";
const PERIOD: &str = "give seconds, or units of `d h m s` such as \"1h10m\"";
const CALENDAR: &str = "give a time as systemd's OnCalendar= takes it, such as \"Mon *-*-* 06:00:00\"";
const QUERY: &str = "give a query in the words of the database";

/// Every key, in the order in which settings are shown.
pub(super) const KEYS: [Key; 52] = [
    key("source", LOCAL_PATH),
    key("enabled", "give true or false"),
    key("verbosity", "give \"error\", \"warn\", \"info\", \"debug\" or \"trace\""),
    key("releases", "give a list of ids, or of texts such as \"Project/Release\""),
    key("projects", "give a list of ids or names"),
    key("packages", "give a table of PACKAGE = \"VERSION\", or PACKAGE = [\"VERSION\", \"VERSION\"]"),
    key("kind", "give \"ssh\" or \"s3\""),
    key("ssh.host", "give a host's name or address, such as \"site1.example.org\""),
    key("ssh.port", "give a number from 1 to 65535"),
    key("ssh.user", "give the name of the target's user that owns the archive, such as \"pkgadmin\""),
    key("ssh.identity", LOCAL_PATH),
    key("ssh.known_hosts", LOCAL_PATH),
    key("ssh.bandwidth", "give a size such as \"10m\", so much a second, or 0 for no limit"),
    key("ssh.connections", "give a number from 1 to 16"),
    key("ssh.memory", "give a size such as \"512m\", 128m at least"),
    key("target.archive", "give a path on the target: absolute, or seen from the user's home"),
    key("target.bin", "give a folder on the target, such as \"bin\", of the characters A-Z a-z 0-9 . _ / -"),
    key("target.index_at", CALENDAR),
    key("target.purge_at", CALENDAR),
    key("target.memory", "give a size such as \"256m\", 32m at least"),
    key("target.hard_links", "give true or false"),
    key("s3.bucket", "give the bucket's name"),
    key("s3.prefix", "give \"\", or a text that ends in a slash, such as \"ci/\""),
    key("s3.endpoint", "give \"\", or an address such as \"https://s3.example.org:9000\""),
    key("s3.region", "give \"\", or a name such as \"eu-central-1\""),
    key("s3.path_style", "give true or false"),
    key("s3.storage_class", "give \"\", or a name such as \"STANDARD_IA\""),
    key("s3.encryption", "give \"bucket\", \"AES256\", \"aws:kms\" or \"aws:kms:dsse\""),
    key("s3.kms_key", "give \"\", or the key's id or ARN"),
    key("s3.credentials", LOCAL_PATH),
    key("s3.uploads", "give a number from 1 to 16"),
    key("tags.directory", LOCAL_PATH),
    key("tags.poll", PERIOD),
    key("tags.polling", "give \"auto\", \"always\" or \"never\""),
    key("tags.give_up", PERIOD),
    key("writable.grace", PERIOD),
    key("sync.period", PERIOD),
    key("aging.mode", "give \"none\", \"immediate\", \"master\" or \"target\""),
    key("aging.after", "give units of `d h m s`, such as \"30d\""),
    key("aging.max_shrink", "give a percentage such as \"20%\""),
    key("aging.max_delete", "give a number"),
    key("release.source", "give \"odbc\" or \"file\""),
    key("release.connection", "give what the ODBC driver takes, KEY=VALUE;…, without the password"),
    key("release.dsn", "give the name of a data source of odbc.ini, or \"\""),
    key("release.user", "give the name that the database knows, or \"\""),
    key("release.password_file", "give the absolute path of a file, or \"\""),
    key("release.timeout", PERIOD),
    key("release.file", LOCAL_PATH),
    key("release.queries.projects", QUERY),
    key("release.queries.releases", QUERY),
    key("release.queries.release", QUERY),
    key("release.queries.content", QUERY),
];

/// What this key takes, if there is such a key.
pub(super) fn takes(path: &str) -> Option<&'static str> {
    KEYS.iter().find(|key| key.path == path).map(|key| key.takes)
}

/// The keys beside an unknown one, to choose from: those of the same table, or all.
pub(super) fn beside(path: &str) -> String {
    let table = path.rsplit_once('.').map_or("", |(table, _)| table);
    let table_of = |key: &Key| key.path.rsplit_once('.').map_or("", |(table, _)| table);
    let known: Vec<&str> = KEYS.iter().filter(|key| table_of(key) == table).map(|key| key.path).collect();
    if table.is_empty() || known.is_empty() {
        let all: Vec<&str> = KEYS.iter().map(|key| key.path).collect();
        return all.join(", ");
    }
    known.join(", ")
}

/// The paths of all keys, as a person writes them.
pub fn all_keys() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.path)
}
