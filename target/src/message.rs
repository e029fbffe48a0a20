//! What host and target say to each other.
//!
//! A session: both send [`frame::MAGIC`](crate::frame::MAGIC) and a hello; the host
//! asks what stands ([`ToTarget::Query`]), sends packages and links back to back, and
//! ends with [`ToTarget::Done`]. The target answers each package and link by its
//! number, once that is on disk, and ends with [`ToHost::Done`].
//!
//! A package is [`ToTarget::Package`], then data frames, then [`ToTarget::PackageEnd`]
//! (or [`ToTarget::Abandon`]). The data frames of a whole session are one zstd stream,
//! flushed at each package's end, so that packages share what they have in common.
//! What a package's frames inflate to is, in this order:
//! 1. the manifest ([`crate::manifest`]), as many bytes as `manifest_length` says;
//! 2. a tar archive with the manifest's regular files, each once, in its order, under
//!    their paths, and the end-of-archive blocks;
//! 3. for each regular file whose digest the manifest does not have, in its order, the
//!    32 bytes of its BLAKE3.
//!
//! A package told by another version that stands on the target ([`crate::delta`], protocol 2) is
//! [`ToTarget::Delta`] in the place of [`ToTarget::Package`], and its frames inflate to
//! 1. the manifest, without digests;
//! 2. the recipe, as many bytes as `recipe_length` says;
//! 3. for each regular file in the manifest's order what its recipe says: all of its bytes, its
//!    chunks of changes, or nothing;
//! 4. for each group of files, in their order, the 32 bytes of its seal.
//!
//! When a seal is broken (a file of the base is gone, or is not what it was), the package is not
//! answered yet: the target says what it made ([`ToHost::Made`]) of each such group, and ends with
//! [`ToHost::Doubt`]. The host then sends [`ToTarget::Mend`] and data frames that inflate to
//! 1. the numbers of the files that are wrong, in rising order, 32 bits each, little-endian;
//! 2. for each of them all of its bytes, and the 32 bytes of its BLAKE3;
//!
//! and [`ToTarget::PackageEnd`] or [`ToTarget::Abandon`]; that is answered as the package.
//!
//! From protocol 3 on, [`ToTarget::Whole`] takes the place of [`ToTarget::Package`]. It is shorter: there is
//! no tar, and its frames inflate to the manifest, all bytes of each regular file in the manifest's order,
//! and the seals.
//!
//! Of a large package that a session broke off, the target keeps what came, says so behind its hello
//! ([`ToHost::Partial`]), and tells what it is ([`ToTarget::Resume`]). A host that finds the same here
//! sends [`ToTarget::Rest`] in the place of [`ToTarget::Package`]; its frames inflate to what those of
//! [`ToTarget::Delta`] do, but for the content that is kept.

use serde::{Deserialize, Serialize};

use crate::manifest::Time;
use crate::mark::Mark;
use crate::package::{Name, PackageVersion};
use crate::stamp::Stamp;

/// The protocol that this build speaks; a session has the older one of its two sides. What is newer
/// than 1 is said only to who speaks it.
pub const PROTOCOL: u16 = if cfg!(feature = "oldest-protocol") { 1 } else { 8 };
/// The oldest protocol that this build understands.
pub const PROTOCOL_OLDEST: u16 = 1;
/// From this protocol on, what the host says first may come by the helper's command line.
pub const PROTOCOL_OF_SAID: u16 = 3;
/// From this protocol on, a session may have several channels. Older ones had them, too, in another way:
/// nobody answers a host that wants them in these.
pub const PROTOCOL_OF_LANES: u16 = 7;
/// From this protocol on, a session is spread sooner over them.
pub const PROTOCOL_OF_SOON: u16 = 8;
/// From this protocol on, files may be hard links to those of other versions.
pub const PROTOCOL_OF_HARD_LINKS: u16 = 5;
/// From this protocol on, changes say where the parts of a program moved.
pub const PROTOCOL_OF_RELOCATIONS: u16 = 6;
/// How many package-versions one [`ToTarget::Query`] may name.
pub const QUERY_MAX: usize = 1000;
/// The longest PackageList, in bytes.
pub const PACKAGE_LIST_MAX: u64 = 4 << 30;
/// The largest zstd window of a session, as a power of two, in bytes.
pub const fn window_log_max(protocol: u16) -> u32 {
    if protocol < ToTarget::PROTOCOL_OF_WHOLE { 24 } else { 25 }
}

/// A BLAKE3: of a file's content, of an executable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// The first eight bytes, in hexadecimal: enough to tell two apart by eye.
impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// From the host to the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToTarget {
    Hello(HostHello),
    /// What stands in these places? At most [`QUERY_MAX`]; answered by [`ToHost::Standing`].
    Query(Vec<PackageVersion>),
    /// A package-version follows.
    Package(PackageHead),
    PackageEnd,
    /// The host could not read the rest of the package: drop what was staged of it.
    /// Answered as a package that was refused.
    Abandon(String),
    /// Make, or turn, the link `id` to say `text`.
    Link {
        number: u64,
        id: PackageVersion,
        text: Vec<u8>,
        modified: Time,
    },
    /// Nothing more comes; so many packages, links and lists were sent.
    Done {
        sent: u64,
    },
    /// What stands in the whole archive? Answered by [`ToHost::Listing`]s, unless it is what the
    /// host knows already by this digest, and [`ToHost::Listed`].
    List {
        known: Option<Digest>,
    },
    /// The PackageList follows: data frames that inflate to `length` bytes of this digest, then
    /// [`ToTarget::PackageEnd`]. Answered as a package is.
    PackageList {
        number: u64,
        length: u64,
        digest: Digest,
    },
    /// These lose their marks: they are needed, or their marks mean nothing any more. At most
    /// [`QUERY_MAX`]; answered by [`ToHost::Standing`], looked at after the marks were gone.
    /// From protocol 2 on, as all that follows.
    Unmark(Vec<PackageVersion>),
    /// Which marks are there, and what went on? Answered by [`ToHost::Marks`] and [`ToHost::Info`].
    Marks,
    /// These are in excess, as long as they are what they are said to be. At most [`QUERY_MAX`]; answered
    /// by [`ToHost::Marked`].
    Mark {
        what: Vec<(PackageVersion, Standing)>,
        /// After how many seconds the target's own purge deletes them; `None`: it does not.
        after: Option<u64>,
        why: String,
    },
    /// Delete this, if it has a mark and is what it is said to be. Answered as a package is: `Committed`
    /// when it is gone, `Unchanged` when nothing stood there.
    Delete {
        number: u64,
        id: PackageVersion,
        stands: Standing,
    },
    /// A good synchronisation has gone through all marks, by what was needed when the session began.
    /// Answered by [`ToHost::Info`].
    Confirm {
        /// How many package-versions the target's own purge may delete in one run.
        max_delete: u64,
    },
    /// Hold all deletion back, for this reason, or (`None`) do not any more. Answered by
    /// [`ToHost::Info`], after which nothing is deleted any more.
    Hold(Option<String>),
    /// May the host replace the helper? Answered by [`ToHost::MayReplace`]. Since protocol 2.
    AskReplace,
    /// The helper that belongs to the host follows: data frames that inflate to `length` bytes of this
    /// digest, then [`ToTarget::PackageEnd`]. Answered as a package is; the next session has the new
    /// helper. Since protocol 2.
    Replace {
        number: u64,
        length: u64,
        digest: Digest,
    },
    /// A package-version follows, told by another one of its package that stands on the target. Since protocol 2.
    Delta(DeltaHead),
    /// The files of package `number` follow that the target could not make, `files` of them.
    /// Since protocol 2.
    Mend {
        number: u64,
        files: u32,
    },
    /// What is kept of this package, a part of which came before? Answered by [`ToHost::Kept`]s and
    /// [`ToHost::KeptPart`]. Since protocol 2.
    Resume(Partial),
    /// The rest of the package follows that was asked about last. Since protocol 2.
    Rest(RestHead),
    /// A package-version follows, in full and without a tar. Since protocol 3.
    Whole(PackageHead),
    /// So many lanes ([`crate::lanes`]) come to this session, beside its own channel, and know it by this key.
    /// Answered by [`ToHost::Gathered`] once all are there; by nothing where they do not come. Since
    /// protocol 4, and answered since protocol 7; it and [`ToTarget::Spread`] may come in the middle of a package.
    Gather {
        key: Digest,
        lanes: u8,
    },
    /// Behind so many bytes more, what comes is spread over all lanes, in blocks. Since protocol 7.
    Spread {
        after: u64,
    },
    /// From here on, a file that is the same as that of its path in a base, and has its mode and time, too, shall
    /// be a hard link to that. Since protocol 5.
    HardLinks,
}

impl ToTarget {
    /// From this protocol on, a target says what it keeps of packages.
    pub const PROTOCOL_OF_PARTIALS: u16 = 2;
    /// From this protocol on, packages need no tar, and windows may be larger.
    pub const PROTOCOL_OF_WHOLE: u16 = 3;

    /// The first protocol that has this message.
    pub fn since(&self) -> u16 {
        match self {
            Self::Hello(_)
            | Self::Query(_)
            | Self::Package(_)
            | Self::PackageEnd
            | Self::Abandon(_)
            | Self::Link { .. }
            | Self::Done { .. }
            | Self::List { .. }
            | Self::PackageList { .. } => 1,
            Self::Unmark(_)
            | Self::Marks
            | Self::Mark { .. }
            | Self::Delete { .. }
            | Self::Confirm { .. }
            | Self::Hold(_)
            | Self::AskReplace
            | Self::Replace { .. }
            | Self::Delta(_)
            | Self::Mend { .. }
            | Self::Resume(_)
            | Self::Rest(_) => 2,
            Self::Whole(_) => Self::PROTOCOL_OF_WHOLE,
            Self::Gather { .. } => 4,
            Self::Spread { .. } => PROTOCOL_OF_LANES,
            Self::HardLinks => PROTOCOL_OF_HARD_LINKS,
        }
    }
}

/// How a host introduces itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostHello {
    /// First in every protocol to come, so that it can always be read.
    pub protocol: u16,
    /// The archive's path: absolute, or below the user's home.
    pub archive: Vec<u8>,
    /// Which master speaks (its host name), for the records on the target.
    pub master: String,
    /// The host's clock, in seconds since 1970 (UTC).
    pub clock: i64,
}

/// What is known of a package-version before its bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PackageHead {
    /// Rises within a session, links included; what the host could not read leaves a gap.
    pub number: u64,
    pub id: PackageVersion,
    pub stamp: Stamp,
    /// In bytes, inflated; at most [`MANIFEST_MAX`](crate::manifest::MANIFEST_MAX).
    pub manifest_length: u32,
}

/// What is known of a package-version before its bytes, and what it is told by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeltaHead {
    pub head: PackageHead,
    /// The version of the same package that it is told by, and its stamp on the host.
    pub base: Name,
    pub base_stamp: Stamp,
    /// In bytes, inflated; at most [`MANIFEST_MAX`](crate::manifest::MANIFEST_MAX).
    pub recipe_length: u32,
}

/// A package-version of which a part came in a session that ended in the middle of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    pub id: PackageVersion,
    pub stamp: Stamp,
    /// The BLAKE3 of its manifest, encoded.
    pub manifest: Digest,
}

/// What is known of a package-version before the rest of its bytes, and where they start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestHead {
    pub head: PackageHead,
    /// As in [`DeltaHead`]; none if the rest comes in full.
    pub base: Option<(Name, Stamp)>,
    /// As in [`DeltaHead`].
    pub recipe_length: u32,
    /// So many regular files, in the manifest's order, are what the target keeps of them,
    pub files: u32,
    /// and so many bytes of the next one. Of a file that is told by changes, whole chunks.
    pub bytes: u64,
}

/// From the target to the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToHost {
    Hello(TargetHello),
    /// The answer to a query, in its order.
    Standing(Vec<Standing>),
    /// How it ended with package or link `number`, in any order.
    Outcome {
        number: u64,
        outcome: Outcome,
    },
    /// Work goes on (syncing to disk can take long without a word).
    Alive,
    /// The session cannot go on.
    Failed(Refusal),
    /// Everything was answered; so many were committed or stood already.
    Done {
        committed: u64,
        unchanged: u64,
        refused: u64,
    },
    /// A chunk of the listing ([`crate::listing::chunk`]), compressed by zstd.
    Listing(Vec<u8>),
    /// The listing is complete.
    Listed(Listed),
    /// Some of the marks.
    Marks(Vec<Mark>),
    /// So many have a mark now, of those that were to be marked.
    Marked(u64),
    Info(Info),
    /// Whether the host may replace the helper: nothing speaks against it, or this does.
    MayReplace(Option<Refusal>),
    /// What came of a group of files of package `number` whose seal is broken: the digest of each,
    /// or none where its base could not be read.
    Made {
        number: u64,
        group: u32,
        digests: Vec<Option<Digest>>,
    },
    /// All such groups of package `number` were told.
    Doubt {
        number: u64,
    },
    /// Packages of which a part is kept. Said behind the hello, if there are any and the session's
    /// protocol has it.
    Partial(Vec<Partial>),
    /// The digests of regular files that are kept, in the manifest's order, from the first on; more follow.
    Kept(Vec<Digest>),
    /// No more: of the file behind those, so many bytes are kept, and this is their digest.
    KeptPart {
        bytes: u64,
        digest: Digest,
    },
    /// All lanes are there that were announced.
    Gathered,
    /// What came of a session that is spread, in bytes from there on. Since protocol 7.
    Came {
        /// How many were taken up, in their order.
        place: u64,
        /// How many came by each lane, the session's own channel first.
        lanes: Vec<u64>,
    },
}

/// What goes on at a target, and what went on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// The target's clock, in seconds since 1970 (UTC).
    pub clock: i64,
    /// See [`TargetHello`].
    pub free_bytes: u64,
    pub free_inodes: u64,
    /// Why deletion is held back, if it is.
    pub hold: Option<String>,
    /// How the index was last made.
    pub index: Option<Ran>,
    /// How the target's own purge last ran.
    pub purge: Option<Ran>,
    /// What was deleted, the oldest first; the last thousand.
    pub deleted: Vec<Deleted>,
}

/// How something ran on the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// When it ended, in seconds since 1970 by the target's clock.
    pub at: i64,
    /// How much it did: lines of the index, deletions of a purge.
    pub count: u64,
    pub failed: u64,
    /// What failed first.
    pub trouble: Option<String>,
}

/// Something that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// In seconds since 1970 by the target's clock.
    pub at: i64,
    pub id: PackageVersion,
    /// `purge`, or the master whose synchronisation did it.
    pub by: String,
}

/// The end of a listing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    /// The digest of the whole listing.
    pub digest: Digest,
    /// What could not be read or named, and why; the first hundred of `passed_over_count`.
    pub passed_over: Vec<String>,
    pub passed_over_count: u64,
    /// The BLAKE3 of the PackageList that lies there, if one does.
    pub package_list: Option<Digest>,
}

/// How a target introduces itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetHello {
    /// First in every protocol to come, so that it can always be read.
    pub protocol: u16,
    pub build: Digest,
    /// The version that a person would call it by.
    pub version: String,
    /// The target's clock, in seconds since 1970 (UTC).
    pub clock: i64,
    /// Bytes that the transfer user can still write to the archive's file system.
    pub free_bytes: u64,
    /// Files that can still be made there; 0 where the file system does not count.
    pub free_inodes: u64,
}

/// What stands in a package-version's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    Absent,
    /// A folder with a `descpkg` of this stamp.
    Version(Stamp),
    /// A link with this text.
    Link(Vec<u8>),
    /// Anything else: a folder without `descpkg`, a file.
    Other,
}

/// How it ended with one package or link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Synced to disk and visible. `replaced`: something else stood there before.
    Committed {
        replaced: bool,
    },
    /// It stood there already, the same.
    Unchanged,
    Refused(Refusal),
}

/// A refusal, and whether time or a person mends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub mend: Mend,
    /// What was attempted, and why it failed.
    pub reason: String,
}

/// What a failure needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mend {
    /// Trying again later (a full disk, a file that vanished).
    Later,
    /// A person (a wrong permission, a name that the target cannot hold).
    Person,
}

impl Refusal {
    pub fn later(reason: impl Into<String>) -> Self {
        Self { mend: Mend::Later, reason: reason.into() }
    }

    pub fn person(reason: impl Into<String>) -> Self {
        Self { mend: Mend::Person, reason: reason.into() }
    }
}
