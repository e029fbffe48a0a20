//! By what the packages of a round may be told: other versions of them, that the target may have.

use std::collections::{BTreeSet, HashMap};

use blat_target::message::Standing;
use blat_target::package::PackageVersion;

use super::resolve::Want;
use super::round::Round;
use crate::archive::Archive;
use crate::bases::{self, Base};

/// In larger rounds, nobody looks which other versions the target has.
const NEAR_MAX: usize = 100;

/// Other versions of a round's packages, that the target may have.
pub(super) struct Near(HashMap<PackageVersion, Vec<PackageVersion>>);

impl Near {
    /// Those that the target is asked about besides a round's own places, where the round is small.
    pub(super) fn of(archive: &Archive, round: &Round) -> Self {
        if round.steps.len() > NEAR_MAX {
            return Self(HashMap::new());
        }
        let versions = round.steps.iter().filter(|step| matches!(step.want, Want::Version(_)));
        Self(versions.map(|step| (step.id.clone(), bases::near_here(archive, &step.id))).collect())
    }

    /// Each of them once, in an order of its own.
    pub(super) fn all(&self) -> Vec<PackageVersion> {
        self.0.values().flatten().collect::<BTreeSet<_>>().into_iter().cloned().collect()
    }

    /// The bases that the target has for `id`.
    pub(super) fn there(
        &self,
        archive: &Archive,
        id: &PackageVersion,
        standing: &HashMap<PackageVersion, Standing>,
    ) -> Vec<Base> {
        let versions = self.0.get(id).into_iter().flatten().filter_map(|base| match standing.get(base) {
            Some(Standing::Version(stamp)) => Some((base.version.clone(), *stamp)),
            _ => None,
        });
        bases::usable(archive, id, versions.collect())
    }
}
