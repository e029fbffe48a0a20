//! Carrying a plan out over one session: packages back to back, then the links, then the
//! PackageList; and what became of each.

use std::collections::HashMap;
use std::time::Instant;

use blat_target::listing::Listing;
use blat_target::message::{Mend, Outcome, Refusal};
use blat_target::package::PackageVersion;

use super::known::Put;
use super::plan::Plan;
use super::room::Look;
use super::show::Show;
use crate::archive::Archive;
use crate::bases;
use crate::channel::Channel;
use crate::failure::Result;
use crate::report::{Cause, Parts, Report, Reporter};
use crate::session::Event;

/// How many packages may be unanswered: so many that a line never runs empty meanwhile, for
/// small packages come in by hundreds within one sync to disk on the target.
const AHEAD: usize = 4096;
/// How many failures are told one by one, as they come; the totals have the number of all.
pub(super) const FAILURES_TOLD: usize = 20;

/// What became of a plan.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// What stands on the target now, as it was to be.
    pub(super) put: Vec<(PackageVersion, Put)>,
    pub(super) packages: u64,
    pub(super) links: u64,
    /// The sum of the sizes of the files of what was sent, in bytes.
    pub(super) bytes: u64,
    /// What failed; the worst of them decides how the run ends.
    pub(super) failed: Vec<Refusal>,
    /// Which package-versions failed, and why.
    pub(super) why: HashMap<PackageVersion, String>,
    /// Why the PackageList was not laid down, and what a person does about it, where one has to.
    pub(super) withheld: Option<String>,
}

impl Carried {
    /// What mends the failures: a person, if any of them needs one.
    pub(super) fn mend(&self) -> Option<Mend> {
        let person = self.failed.iter().any(|refusal| refusal.mend == Mend::Person);
        (!self.failed.is_empty()).then_some(if person { Mend::Person } else { Mend::Later })
    }
}

/// One thing to send.
enum Item {
    Package(PackageVersion, Put),
    Link(PackageVersion, Vec<u8>),
    PackageList(Vec<u8>),
}

pub(super) struct Carry<'a> {
    pub(super) archive: &'a Archive,
    /// What the target had before.
    listing: &'a Listing,
    pub(super) channel: &'a mut Channel,
    pub(super) reporter: &'a mut Reporter,
    pub(super) show: &'a mut Show,
    sent: HashMap<u64, Sent>,
    /// When the bytes of the last package were all under way: those of the next come from then on.
    packed: Instant,
    /// Whether all of it fits there.
    look: Look,
    carried: Carried,
}

struct Sent {
    item: Item,
    bytes: u64,
    /// When its own turn began.
    began: Instant,
}

impl<'a> Carry<'a> {
    pub(super) fn new(
        archive: &'a Archive,
        listing: &'a Listing,
        channel: &'a mut Channel,
        look: Look,
        reporter: &'a mut Reporter,
        show: &'a mut Show,
    ) -> Self {
        let (sent, carried) = (HashMap::new(), Carried::default());
        Self { archive, listing, channel, reporter, show, sent, packed: Instant::now(), look, carried }
    }

    /// Carries `plan` out, and lays `package_list` down if one is given; whether that is the `last` that the
    /// session has to say. What was done before an error stays done and is told, and the next run finds it.
    pub(super) async fn out(
        mut self,
        plan: &Plan,
        package_list: Option<Vec<u8>>,
        last: bool,
    ) -> (Carried, Result<()>) {
        let ended = self.all(plan, package_list, last).await;
        (self.carried, ended)
    }

    async fn all(&mut self, plan: &Plan, package_list: Option<Vec<u8>>, last: bool) -> Result<()> {
        let packages = plan.sends.iter().map(|send| Item::Package(send.id.clone(), Put::Version(send.stamp)));
        let links = plan.links.iter().map(|link| Item::Link(link.id.clone(), link.text.clone().into_bytes()));
        for item in packages.chain(links).chain(package_list.map(Item::PackageList)) {
            while self.sent.len() >= AHEAD {
                self.hear().await?;
            }
            self.send(item)?;
            // Its bases were looked for on this thread, maybe on a slow disk.
            self.channel.session.moved();
            tokio::task::yield_now().await;
        }
        if last {
            self.channel.session.end_is_near()?;
        }
        while !self.sent.is_empty() {
            self.hear().await?;
        }
        if !self.carried.failed.is_empty()
            && let Some(reason) = self.look.last_warning().await
        {
            self.reporter.tell(Report::Problem { reason, about: None });
        }
        Ok(())
    }

    fn send(&mut self, item: Item) -> Result<()> {
        let session = &mut self.channel.session;
        let number = match &item {
            Item::Package(id, _) => {
                let bases = bases::listed(self.archive, self.listing, id);
                session.send_package(id.clone(), self.archive.path(id), bases)?
            }
            Item::Link(id, text) => session.send_link(id.clone(), text.clone(), self.archive.path(id))?,
            Item::PackageList(text) => session.send_package_list(text.clone())?,
        };
        self.sent.insert(number, Sent { item, bytes: 0, began: Instant::now() });
        Ok(())
    }

    async fn hear(&mut self) -> Result<()> {
        let event = tokio::select! {
            biased;
            reason = self.look.warning() => {
                self.reporter.tell(Report::Problem { reason, about: None });
                return Ok(());
            }
            event = self.channel.session.event() => event?,
        };
        match event {
            Event::Packed(packed) => {
                if let Some(sent) = self.sent.get_mut(&packed.number) {
                    sent.bytes = packed.bytes;
                    sent.began = sent.began.max(self.packed);
                }
                self.packed = Instant::now();
            }
            Event::Mended(mended) => {
                if let Some(Sent { item: Item::Package(id, _), .. }) = self.sent.get(&mended.number) {
                    self.reporter.tell(Report::mended(id, &mended));
                }
            }
            Event::Resumed(resumed) => {
                if let Some(Sent { item: Item::Package(id, _), .. }) = self.sent.get(&resumed.number) {
                    self.reporter.tell(Report::resumed(id, resumed.bytes));
                }
            }
            Event::Unreadable { number, failure } => {
                let failed = failure.into();
                if let Some(sent) = self.sent.remove(&number) {
                    self.failed(&sent.item, failed);
                }
            }
            Event::Outcome { number, outcome } => {
                if let Some(sent) = self.sent.remove(&number) {
                    self.ended(sent, outcome);
                }
            }
        }
        Ok(())
    }

    fn ended(&mut self, sent: Sent, outcome: Outcome) {
        let replaced = match outcome {
            Outcome::Refused(refusal) => return self.failed(&sent.item, refusal),
            Outcome::Committed { replaced } => Some(replaced),
            Outcome::Unchanged => None,
        };
        let (id, put) = match sent.item {
            Item::Package(id, put) => (id, put),
            Item::Link(id, text) => (id, Put::Link(text)),
            Item::PackageList(_) => return,
        };
        if let Some(replaced) = replaced {
            self.committed(&id, &put, sent.bytes, replaced, sent.began);
        }
        self.carried.put.push((id, put));
    }

    fn committed(&mut self, id: &PackageVersion, put: &Put, bytes: u64, replaced: bool, began: Instant) {
        match put {
            Put::Version(_) => self.carried.packages += 1,
            Put::Link(_) => self.carried.links += 1,
        }
        self.carried.bytes += bytes;
        self.show.committed(id, bytes);
        self.reporter.tell(Report::Committed {
            package: id.package.to_string(),
            version: id.version.to_string(),
            bytes,
            replaced,
            cause: Cause::Sync,
            micros: began.elapsed().as_micros() as u64,
            parts: Parts::default(),
        });
    }

    fn failed(&mut self, item: &Item, refusal: Refusal) {
        let about = match item {
            Item::Package(id, _) | Item::Link(id, _) => Some(id.clone()),
            Item::PackageList(_) => None,
        };
        if self.carried.failed.len() < FAILURES_TOLD {
            let what = about.as_ref().map_or_else(|| "the PackageList".into(), ToString::to_string);
            let reason = format!("{what} was not sent: {}", refusal.reason);
            self.reporter.tell(Report::Problem { reason, about: about.clone() });
        }
        if let Some(id) = about {
            self.carried.why.insert(id, refusal.reason.clone());
        }
        self.carried.failed.push(refusal);
    }
}
