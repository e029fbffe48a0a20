//! Configuration: what was read ([`folder`], `layer`) → what was merged and is valid ([`Settings`])
//! → what is in force (the accepted copies; `apply` makes them).
//!
//! A fault in it needs a person, and is exit code 78 to whoever starts us ([`EX_CONFIG`]).

mod aging;
mod apply;
mod check;
mod copies;
mod destination;
mod directories;
pub mod folder;
mod in_force;
mod keys;
mod layer;
mod name;
mod overview;
mod period;
mod problem;
mod release;
mod settings;
mod size;
mod steps;
mod systemctl;
mod value;
mod verdict;
mod wanted;

pub use aging::{Aging, AgingMode, BadPercent, Percent};
pub use apply::Apply;
pub use check::check;
pub use destination::{Destination, Kind, S3, S3Target, Ssh, SshTarget, There};
pub use directories::Owners;
pub use in_force::in_force;
pub use keys::all_keys;
pub use name::{BadName, TargetName};
pub use overview::Overview;
pub use period::{BadPeriod, Period};
pub use problem::{Place, Problem, Problems};
pub use release::{Queries, Release, Source};
pub use settings::{Settings, Sync, Tags, Writable};
pub use size::{BadSize, Size};
pub use systemctl::Systemctl;
pub use value::{
    AtOnce, BadValue, BucketName, Calendar, Connection, Encryption, Endpoint, Host, OneWord, OptionalPath,
    Polling, Prefix, Query, RemoteBin, RemotePath, User, Verbosity,
};
pub use wanted::{Packages, ProjectName, ReleaseName};

/// "Needs a person" of sysexits(3): something was found in an unconfigured or misconfigured state.
pub use crate::failure::EXIT_PERSON as EX_CONFIG;
