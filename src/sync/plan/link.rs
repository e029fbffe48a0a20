//! Links in the plan: made when what they address is there, or will be.

use blat_target::listing::Stands;
use blat_target::package::{PackageVersion, link_target};

use super::{Fate, Link, Making, Problem, ProblemWhy, There, Wait, WaitWhy};
use crate::sync::current_set::{CurrentSet, LINKS_MAX};

/// A link of the set, and what the target has in its place.
pub(super) struct Place<'a> {
    pub(super) place: usize,
    pub(super) there: Option<Stands<'a>>,
    pub(super) text: &'a [u8],
}

/// A link, and how many links there are from it to the package-version, itself included.
struct Far<'a, 'b> {
    depth: usize,
    link: &'b Place<'a>,
    addressed: PackageVersion,
    at: usize,
}

impl Making {
    /// Plans the links, those first that others address.
    pub(super) fn links(&mut self, set: &CurrentSet, links: &[Place<'_>]) {
        let mut far = Vec::with_capacity(links.len());
        for link in links {
            match follow(set, link) {
                Ok(found) => far.push(found),
                Err(why) => {
                    self.fates[link.place] = Fate::Fails;
                    self.plan.problems.push(Problem { id: set.at(link.place).id(), why });
                }
            }
        }
        far.sort_by_key(|far| (far.depth, far.link.place));
        for far in far {
            self.fates[far.link.place] = self.link(set, &far);
        }
    }

    fn link(&mut self, set: &CurrentSet, far: &Far<'_, '_>) -> Fate {
        if far.link.there == Some(Stands::Link(far.link.text)) {
            self.plan.totals.unchanged += 1;
            return Fate::There;
        }
        let (id, addressed) = (set.at(far.link.place).id(), far.addressed.clone());
        match self.fates[far.at] {
            Fate::There => {
                let text = String::from_utf8_lossy(far.link.text).into_owned();
                self.plan.links.push(Link { id, text, there: There::of(far.link.there) });
                Fate::There
            }
            Fate::Waits => {
                self.plan.waits.push(Wait { id, why: WaitWhy::Addressed(addressed) });
                Fate::Waits
            }
            Fate::Fails => {
                self.plan.problems.push(Problem { id, why: ProblemWhy::Dangling(addressed) });
                Fate::Fails
            }
        }
    }
}

/// What a link addresses, and how far the package-version is.
fn follow<'a, 'b>(set: &CurrentSet, link: &'b Place<'a>) -> Result<Far<'a, 'b>, ProblemWhy> {
    let elsewhere = || ProblemWhy::Elsewhere(String::from_utf8_lossy(link.text).into_owned());
    let addressed = link_target(&set.at(link.place).id(), link.text).map_err(|_| elsewhere())?;
    let place = |id: &PackageVersion| set.place(id.package.as_str(), id.version.as_str());
    let at = place(&addressed).ok_or(ProblemWhy::Circle)?;
    let mut next = at;
    for depth in 1..=LINKS_MAX {
        match set.at(next).addresses() {
            None => return Ok(Far { depth, link, addressed, at }),
            // Nothing is a member that lies behind more links than a set follows.
            Some(id) => next = place(&id).ok_or(ProblemWhy::Circle)?,
        }
    }
    Err(ProblemWhy::Circle)
}
