//! What is on a target and nothing asks for, as the last synchronisation left it.

use blat_target::package::PackageVersion;
use serde::{Deserialize, Serialize};

/// An item of `/var/lib/blat/NAME/excess.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excess {
    pub id: PackageVersion,
    pub marked: bool,
    /// What becomes of it, and why.
    pub reason: String,
}
