//! How far a synchronisation is: a bar at a terminal, `STATUS=` in a unit.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use blat_target::package::PackageVersion;
use indicatif::{ProgressBar, ProgressStyle};
use sd_notify::NotifyState;

use super::plan::Plan;
use crate::state::{self, Progress, Seconds, seconds};
use crate::told::size;

const BAR: &str = "{bar:30} {pos}/{len} packages, {msg}, {elapsed} gone, {eta} left";
/// How often systemd is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What is shown of a run that goes on.
#[derive(Debug)]
pub(super) struct Show {
    bar: ProgressBar,
    /// Where it is written down, if there is an agent.
    file: PathBuf,
    since: Seconds,
    start: Instant,
    told: Option<Instant>,
    total: u64,
    done: u64,
    bytes: u64,
}

impl Show {
    /// Begins with a plan of which nothing is done.
    pub(super) fn of(plan: &Plan, file: PathBuf) -> Self {
        let total = plan.totals.send + plan.totals.link;
        let bar = if std::io::stderr().is_terminal() && total > 0 {
            let style = ProgressStyle::with_template(BAR).expect("the template is right");
            ProgressBar::new(total).with_style(style)
        } else {
            ProgressBar::hidden()
        };
        let since = seconds(SystemTime::now());
        let show = Self { bar, file, since, start: Instant::now(), told: None, total, done: 0, bytes: 0 };
        show.write_down();
        show
    }

    /// A package or link is there, of so many bytes.
    pub(super) fn committed(&mut self, id: &PackageVersion, bytes: u64) {
        self.done += 1;
        self.bytes += bytes;
        self.bar.inc(1);
        self.bar.set_message(self.rate());
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            let status = format!(
                "{} of {} packages, {}, {} left; last {id}",
                self.done,
                self.total,
                self.rate(),
                self.left()
            );
            tell(&status);
            self.write_down();
        }
    }

    fn write_down(&self) {
        if self.file.parent().is_some_and(|folder| folder.exists()) {
            let (done, total, bytes) = (self.done, self.total, self.bytes);
            state::keep(&self.file, &Progress { since: self.since, done, total, bytes });
        }
    }

    fn rate(&self) -> String {
        let seconds = self.start.elapsed().as_secs_f64().max(0.001);
        format!("{} at {}/s", size(self.bytes), size((self.bytes as f64 / seconds) as u64))
    }

    /// How long it will take at the pace so far.
    fn left(&self) -> String {
        let each = self.start.elapsed().as_secs_f64() / self.done.max(1) as f64;
        format!("{:.0} s", each * (self.total - self.done) as f64)
    }

    /// Ends what is shown.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Says in `systemctl status` what goes on.
pub(super) fn tell(status: &str) {
    if let Err(why) = sd_notify::notify(&[NotifyState::Status(status)]) {
        tracing::debug!("cannot tell systemd: {why}");
    }
}
