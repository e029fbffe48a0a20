//! The names of objects, and what they carry beside their bytes.

use std::collections::HashMap;

use blat_target::package::PackageVersion;
use blat_target::stamp::Stamp;

/// The index's name behind the prefix.
const INDEX: &str = "packages.json";
const STAMP: &str = "blat-stamp";
const DIGEST: &str = "blat-sha256";
const LINK: &str = "blat-link";

/// The key of a package-version's object.
pub(super) fn key(prefix: &str, id: &PackageVersion) -> String {
    let (package, version) = (id.package.as_str(), id.version.as_str());
    format!("{prefix}{package}/{package}-{version}.zip")
}

/// The key of the index.
pub(super) fn index_key(prefix: &str) -> String {
    format!("{prefix}{INDEX}")
}

/// The package-version whose object has this key, if one's has.
pub(super) fn id_of(prefix: &str, key: &str) -> Option<PackageVersion> {
    let (package, file) = key.strip_prefix(prefix)?.split_once('/')?;
    let version = file.strip_prefix(package)?.strip_prefix('-')?.strip_suffix(".zip")?;
    PackageVersion::new(package, version).ok()
}

/// What an object of ours carries as metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub stamp: Stamp,
    /// The SHA-256 of its bytes, in hexadecimal, where it was known before they were sent.
    pub sha256: Option<String>,
    /// The text of the link that it stands for.
    pub link: Option<String>,
}

impl Meta {
    /// Whether both tell of the same bytes. An object that was sent in parts may not tell its digest yet.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        let differ = self.sha256.as_ref().zip(other.sha256.as_ref()).is_some_and(|(one, other)| one != other);
        (self.stamp, &self.link) == (other.stamp, &other.link) && !differ
    }

    /// As the pairs that go with an object.
    pub(super) fn pairs(&self) -> HashMap<String, String> {
        let stamp = Some((STAMP, self.stamp.0.to_string()));
        let digest = self.sha256.clone().map(|digest| (DIGEST, digest));
        let link = self.link.as_deref().map(|link| (LINK, escaped(link)));
        [stamp, digest, link].into_iter().flatten().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Reads the pairs; `None` for an object that blat did not put there.
    pub(super) fn of(pairs: Option<&HashMap<String, String>>) -> Option<Self> {
        let pairs = pairs?;
        Some(Self {
            stamp: Stamp(pairs.get(STAMP)?.parse().ok()?),
            sha256: pairs.get(DIGEST).cloned(),
            link: pairs.get(LINK).map(|link| unescaped(link)),
        })
    }
}

/// Metadata is ASCII: all else, and the escape itself, becomes `%XX`.
pub(super) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let one = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

fn unescaped(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let code =
            tail.get(..2).and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_digest_that_is_not_told_yet_makes_no_other_object() {
        let of = |stamp, sha256: Option<&str>| Meta {
            stamp: Stamp(stamp),
            sha256: sha256.map(str::to_owned),
            link: None,
        };
        assert!(of(1, Some("a")).agrees(&of(1, None)) && of(1, None).agrees(&of(1, Some("a"))));
        assert!(!of(1, Some("a")).agrees(&of(1, Some("b"))) && !of(1, None).agrees(&of(2, None)));
    }

    #[test]
    fn only_keys_of_our_form_are_package_versions() {
        let id = |key: &str| id_of("ci/", key).map(|id| id.to_string());
        assert_eq!(id("ci/core/core-1.0.zip").as_deref(), Some("core/1.0"));
        assert_eq!(id("ci/a-b/a-b-1-2.zip").as_deref(), Some("a-b/1-2"));
        for key in [
            "ci/packages.json",
            "ci/core/other-1.0.zip",
            "ci/core/core-.zip",
            "core/core-1.zip",
            "ci/a/b/a-1.zip",
        ] {
            assert_eq!(id(key), None, "{key}");
        }
    }

    #[test]
    fn an_object_without_our_stamp_is_not_ours() {
        let pairs = HashMap::from([("blat-sha256".to_owned(), "ab".to_owned())]);
        assert_eq!(Meta::of(Some(&pairs)), None);
        assert_eq!(Meta::of(None), None);
    }

    proptest! {
        #[test]
        fn keys_and_metadata_read_as_they_were_written(
            package in "[a-zA-Z0-9_é-]{1,12}", version in "[a-zA-Z0-9][a-zA-Z0-9_.+é-]{0,12}", link in "[a-z%é ./]{1,8}"
        ) {
            let id = PackageVersion::new(&package, &version).unwrap();
            prop_assert_eq!(id_of("x/y/", &key("x/y/", &id)), Some(id));
            let meta = Meta { stamp: Stamp(-7), sha256: Some("0f".into()), link: Some(link) };
            prop_assert_eq!(Meta::of(Some(&meta.pairs())), Some(meta));
        }
    }
}
