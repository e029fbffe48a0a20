//! The metrics, in the OpenMetrics format; and in the older one of Prometheus for who asks for that.

use std::fmt::Write;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::state::LineState;
use crate::status::{Fleet, Target};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    target: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRun {
    target: String,
    /// `sync` or `transfer`.
    run: &'static str,
}

type Figure = fn(&Target, u64) -> Option<i64>;

/// Each gauge: name, help, and its value, where the target has one.
const GAUGES: &[(&str, &str, Figure)] = &[
    ("blat_state", "How the target stands: 0 ok, 1 warning, 2 critical, 3 unknown", |of, _| {
        Some(of.level as i64)
    }),
    ("blat_enabled", "Whether the target is to run", |of, _| Some(of.enabled.into())),
    ("blat_agent_running", "Whether the agent runs", |of, _| Some(of.agent.is_some().into())),
    ("blat_connected", "Whether the target is connected", |of, _| {
        let state = of.agent.as_ref().map(|agent| agent.line.state);
        // No connection to a bucket is kept.
        (state != Some(LineState::NotKept)).then_some((state == Some(LineState::Up)).into())
    }),
    ("blat_config_problems", "Faults in the target's file", |of, _| count(of.config_problems.len())),
    ("blat_last_good_sync_seconds", "Seconds since the last good synchronisation", |of, now| {
        Some(of.since_good_sync(now)? as i64)
    }),
    ("blat_never_synced", "Whether the target should be synchronised and never was", |of, now| {
        Some((of.enabled && of.wanted && of.since_good_sync(now).is_none()).into())
    }),
    ("blat_sync_period_seconds", "How long after a synchronisation the next begins", |of, _| {
        of.wanted.then_some(of.sync_period as i64)
    }),
    ("blat_lag_seconds", "Age of the oldest package that should be there and is not", |of, _| {
        Some(of.lag.unwrap_or_default() as i64)
    }),
    ("blat_missing_packages", "Packages that should be there and are not", |of, _| Some(of.missing as i64)),
    ("blat_tags_waiting", "Tags that are not done", |of, _| count(of.tags.fresh + of.tags.queued)),
    ("blat_members", "Packages that should be there", |of, _| Some(of.ended()?.members as i64)),
    ("blat_problem_packages", "Packages that cannot be sent as they are", |of, _| {
        Some(of.ended()?.problems as i64)
    }),
    ("blat_excess_packages", "Packages that are there and should not", |of, _| {
        Some(of.ended()?.excess as i64)
    }),
    ("blat_guarded", "Whether nothing in excess is deleted until a person says that it is safe", |of, _| {
        Some(of.ended()?.guarded.is_some().into())
    }),
    ("blat_held", "Whether a person holds all deletion back", |of, _| Some(of.held.is_some().into())),
    ("blat_last_index_seconds", "Seconds since the target made its index", |of, now| {
        since(of.upkeep.as_ref()?.indexed, now)
    }),
    ("blat_last_purge_seconds", "Seconds since the target's own purge ran", |of, now| {
        since(of.upkeep.as_ref()?.purged, now)
    }),
    ("blat_free_bytes", "Space left on the target", |of, _| {
        i64::try_from(of.facts.as_ref()?.free_bytes).ok()
    }),
    ("blat_clock_ahead_seconds", "How far the target's clock is ahead", |of, _| {
        Some(of.facts.as_ref()?.clock_ahead)
    }),
];

fn since(at: Option<i64>, now: u64) -> Option<i64> {
    i64::try_from(now).ok()?.checked_sub(at?)
}

fn count(count: usize) -> Option<i64> {
    i64::try_from(count).ok()
}

/// The metrics of all targets.
pub(super) fn open(fleet: &Fleet) -> String {
    let mut registry = Registry::default();
    for (name, help, figure) in GAUGES {
        let family = Family::<Of, Gauge>::default();
        for target in &fleet.targets {
            if let Some(value) = figure(target, fleet.at) {
                family.get_or_create(&Of { target: target.name.clone() }).set(value);
            }
        }
        registry.register(*name, *help, family);
    }
    let global = Gauge::<i64>::default();
    global.set(fleet.problems.len() as i64);
    registry.register("blat_general_config_problems", "Faults in files that are no target's", global);
    counters(fleet, &mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).expect("memory takes all");
    text
}

fn counters(fleet: &Fleet, registry: &mut Registry) {
    let families: [(&str, &str, Family<OfRun, Counter>); 4] = [
        ("blat_runs", "Runs that ended", Family::default()),
        ("blat_failed_runs", "Runs that failed", Family::default()),
        ("blat_sent_packages", "Packages and links sent", Family::default()),
        ("blat_sent_bytes", "Sizes of the files of what was sent", Family::default()),
    ];
    for target in &fleet.targets {
        for (run, totals) in [("sync", target.sync.totals), ("transfer", target.transfer.totals)] {
            let values = [totals.runs, totals.failures, totals.packages, totals.bytes];
            for ((_, _, family), value) in families.iter().zip(values) {
                family.get_or_create(&OfRun { target: target.name.clone(), run }).inc_by(value);
            }
        }
    }
    for (name, help, family) in families {
        registry.register(name, help, family);
    }
}

/// The same in Prometheus's older text format, in which a counter is called as its sample is.
pub(super) fn plain(open: &str) -> String {
    let counters: Vec<&str> =
        open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut text = String::new();
    for line in open.lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT ")) {
        let mut words = line.splitn(4, ' ');
        let head = (words.next(), words.next(), words.next(), words.next());
        let _ = match head {
            (Some("#"), Some(word), Some(name), Some(rest)) if counters.contains(&name) => {
                writeln!(text, "# {word} {name}_total {rest}")
            }
            _ => writeln!(text, "{line}"),
        };
    }
    text
}
