//! The pages themselves. Whatever comes from files, databases or people is escaped where it is put in.

mod package;
mod target;

use std::path::Path;

use maud::{DOCTYPE, Markup, html};

use super::plot::{Sample, Unit, steps, sums};
use crate::places::Places;
use crate::state::{Point, Seconds, complete_since, last_points, points};
use crate::status::{Fleet, Level, Target};
use crate::told::{duration, time};

pub(super) use package::package;
pub(super) use target::target;

const DAY: Seconds = 86_400;
/// How much of each target's results the plots of all look at, in bytes: some hundred runs.
const RECENT: u64 = 32 << 10;

/// A page with the head that all have.
fn frame(title: &str, inside: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " - blat" }
                link rel="stylesheet" href="/style.css";
                link rel="icon" href="/icon.svg" type="image/svg+xml";
            }
            body {
                a class="skip" href="#content" { "To the content" }
                header {
                    span class="name" { "blat" }
                    nav aria-label="Pages" {
                        a href="/" { "Targets" }
                        a href="/package" { "Packages" }
                        a href="/metrics" { "Metrics" }
                        a href="/api/status" { "JSON" }
                    }
                }
                main id="content" { (inside) }
            }
        }
    }
}

/// There is nothing to show.
pub(super) fn missing(why: &str) -> Markup {
    frame("Not found", &html! { h1 { "Not found" } p { (why) } p { a href="/" { "All targets" } } })
}

fn state(level: Level) -> Markup {
    html! { span class={ "state " (level.word()) } { (level.word()) } }
}

/// A text as part of an address.
fn in_address(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn package_link(package: &str) -> Markup {
    html! { a href={ "/package?name=" (in_address(package)) } { (package) } }
}

fn age(now: Seconds, at: Seconds) -> String {
    duration(now.saturating_sub(at))
}

fn search(package: &str) -> Markup {
    html! {
        form action="/package" method="get" role="search" {
            label for="name" { "Package " }
            input id="name" name="name" value=(package) autocomplete="off" maxlength="255";
            " " button type="submit" { "Explain" }
        }
    }
}

/// All targets at a glance.
pub(super) fn index(root: &Path, fleet: &Fleet) -> Markup {
    let inside = html! {
        h1 { "Targets " (state(fleet.level)) }
        p class="quiet" { "As of " (time(fleet.at)) ". " a href="/" { "Look again" } }
        @for problem in &fleet.problems {
            p { (state(Level::Critical)) " The configuration is broken: " (problem) }
        }
        @if fleet.targets.is_empty() {
            p { "There is no target yet: put a file into " code { "/etc/blat/targets" } "." }
        } @else {
            (table(fleet))
            (minded(fleet))
            h2 { "The last day, all targets" }
            (fleet_plots(root, fleet))
            h2 { "Why a package is where it is" }
            (search(""))
        }
    };
    frame("Targets", &inside)
}

fn table(fleet: &Fleet) -> Markup {
    html! {
        table {
            caption { (fleet.targets.len()) " targets; lag is the age of the oldest package that is missing" }
            thead { tr {
                th scope="col" { "Target" } th scope="col" { "State" } th scope="col" { "Connection" }
                th scope="col" { "Lag" } th scope="col" class="wide" { "Missing" }
                th scope="col" class="wide" { "Tags" } th scope="col" class="wide" { "Good sync" }
                th scope="col" class="wide" { "Next sync" } th scope="col" class="wide" { "Runs now" }
            } }
            tbody { @for target in &fleet.targets { (row(fleet.at, target)) } }
        }
    }
}

fn row(now: Seconds, of: &Target) -> Markup {
    let good = of.since_good_sync(now).map_or_else(|| "never".into(), |ago| format!("{} ago", duration(ago)));
    html! {
        tr {
            th scope="row" { a href={ "/target/" (in_address(&of.name)) } { (of.name) } }
            td { (state(of.level)) }
            td { (of.connection()) }
            td { (of.lag.map_or_else(|| "none".into(), duration)) }
            td class="wide" { (of.missing) }
            td class="wide" { (of.tags.fresh + of.tags.queued) }
            td class="wide" { (good) }
            td class="wide" { (of.next(now)) }
            td class="wide" { (runs_now(of)) }
        }
    }
}

/// What runs now, in a few words.
fn runs_now(of: &Target) -> String {
    let sync = match (&of.progress, of.sync_runs) {
        (Some(progress), true) => format!("sync {}/{}", progress.done, progress.total),
        (None, true) => "sync".into(),
        (_, false) => String::new(),
    };
    let transfer = if of.transfer_runs { "transfer" } else { "" };
    let both = [sync.as_str(), transfer].join(" ");
    if both.trim().is_empty() { "-".into() } else { both.trim().to_owned() }
}

/// What is to be minded, of all targets, the worst first.
fn minded(fleet: &Fleet) -> Markup {
    let remarks = fleet.targets.iter().flat_map(|of| of.remarks.iter().map(move |remark| (of, remark)));
    let mut remarks: Vec<_> = remarks.filter(|(_, remark)| remark.level > Level::Ok).collect();
    remarks.sort_by_key(|(_, remark)| std::cmp::Reverse(remark.level));
    html! {
        h2 { "To be minded" }
        @if remarks.is_empty() { p { "Nothing." } }
        @else {
            ul { @for (of, remark) in remarks {
                li {
                    (state(remark.level)) " " a href={ "/target/" (in_address(&of.name)) } { (of.name) }
                    ": " (remark.text)
                }
            } }
        }
    }
}

fn fleet_plots(root: &Path, fleet: &Fleet) -> Markup {
    let from = fleet.at.saturating_sub(DAY);
    let (mut all, mut since) = (Vec::new(), None);
    for target in &fleet.targets {
        let Ok(name) = target.name.parse() else { continue };
        let places = Places::of(root, &name);
        for series in [places.sync_series(), places.transfer_series()] {
            let read = last_points(&series, RECENT);
            since = since.max(complete_since(&series, RECENT, &read));
            all.extend(read);
        }
    }
    all.retain(|point| point.at >= from);
    all.sort_by_key(|point| point.at);
    html! {
        div class="plots" {
            (sums("Sent.", "fleet-sent", Unit::Bytes, from, fleet.at, &bytes(&all)))
            (sums("Time spent on sending.", "fleet-time", Unit::Millis, from, fleet.at, &spent(&all)))
        }
        (reach(from, since))
    }
}

/// Says where plots from `from` on lack runs: before `since`.
fn reach(from: Seconds, since: Option<Seconds>) -> Markup {
    html! {
        @if let Some(since) = since.filter(|since| *since > from) {
            p class="quiet" { "These are the runs since " (time(since)) "; of earlier ones not all are kept." }
        }
    }
}

fn bytes(points: &[Point]) -> Vec<Sample> {
    points.iter().map(|point| (point.at, point.bytes)).collect()
}

fn spent(points: &[Point]) -> Vec<Sample> {
    points.iter().map(|point| (point.at, point.millis)).collect()
}

fn lags(points: &[Point]) -> Vec<Sample> {
    points.iter().filter_map(|point| Some((point.at, point.lag?))).collect()
}

/// The plots of one target.
fn target_plots(places: &Places, now: Seconds) -> Markup {
    let from = now.saturating_sub(7 * DAY);
    let (syncs, mut all) = (points(&places.sync_series()), points(&places.transfer_series()));
    let since = complete_since(&places.sync_series(), u64::MAX, &syncs);
    let since = since.max(complete_since(&places.transfer_series(), u64::MAX, &all));
    all.extend(&syncs);
    all.sort_by_key(|point| point.at);
    html! {
        div class="plots" {
            (steps("Lag.", "lag", Unit::Duration, from, now, &lags(&syncs)))
            (sums("Sent.", "sent", Unit::Bytes, from, now, &bytes(&all)))
        }
        (reach(from, since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::append;

    #[test]
    fn many_short_runs_are_a_long_time_together() {
        let points = [Point { at: 5, millis: 400, ..Point::default() }; 1000];
        let plot = sums("Time.", "time", Unit::Millis, 0, 10, &spent(&points)).into_string();
        assert!(plot.contains("6m 40s in all"), "{plot}");
    }

    #[test]
    fn a_plot_says_where_runs_are_missing() {
        let root = tempfile::tempdir().unwrap();
        let places = Places::of(root.path(), &"site1".parse().unwrap());
        std::fs::create_dir_all(&places.state).unwrap();
        let now = 30 * DAY;
        let run = |ago| append(&places.transfer_series(), &Point { at: now - ago, ..Point::default() });
        run(1000);
        assert!(!target_plots(&places, now).into_string().contains("These are the runs"));
        (0..3000).for_each(|_| run(999));
        let told = format!("These are the runs since {};", time(now - 999));
        assert!(!target_plots(&places, now).into_string().contains(&told));
        (0..3000).for_each(|_| run(999));
        assert!(target_plots(&places, now).into_string().contains(&told));
    }
}
