//! The page of one target.

use std::path::Path;

use maud::{Markup, html};

use super::{age, frame, package_link, runs_now, state, target_plots};
use crate::places::Places;
use crate::state::Seconds;
use crate::status::text::upkeep_in_words;
use crate::status::{Fleet, Target};
use crate::tags::Tag;
use crate::told::{duration, size, time};

/// All that is known of the one target of `fleet`.
pub(in crate::web) fn target(root: &Path, fleet: &Fleet) -> Markup {
    let Some(of) = fleet.targets.first() else { return super::missing("There is no such target.") };
    let now = fleet.at;
    let inside = html! {
        h1 { (of.name) " " (state(of.level)) }
        p class="quiet" { "As of " (time(now)) ". The journal: " code { "blat history " (of.name) } }
        @if of.remarks.is_empty() { p { "Nothing is to be minded." } }
        @else { ul { @for remark in &of.remarks { li { (state(remark.level)) " " (remark.text) } } } }
        h2 { "State" }
        (figures(of, now))
        h2 { "The last week" }
        @if let Ok(name) = of.name.parse() { (target_plots(&Places::of(root, &name), now)) }
        (queue(of, now))
        (missing(of, now))
        (rejected(of))
    };
    frame(&of.name, &inside)
}

fn figures(of: &Target, now: Seconds) -> Markup {
    let since = of.agent.as_ref().and_then(|agent| agent.line.since);
    html! {
        dl {
            dt { "Host" } dd { (of.host) }
            dt { "Connection" }
            dd { (of.connection()) @if let Some(since) = since { " for " (age(now, since)) } (of.several()) }
            dt { "Lag" } dd { (of.lag.map_or_else(|| "none".into(), duration)) ", " (of.missing) " missing" }
            dt { "Last good sync" }
            dd { @match of.sync.good_at { Some(at) => { (time(at)) ", " (age(now, at)) " ago" } None => "never" } }
            @if let Some(end) = of.ended() {
                dt { "Last sync" }
                dd {
                    (end.members) " members, " (end.packages) " packages sent (" (size(end.bytes)) "), "
                    (end.waiting) " wait, " (end.problems) " with problems, " (end.excess) " in excess ("
                    (end.marked) " marked, " (end.deleted) " deleted), "
                    (end.millis) " ms"
                }
                dt { "Releases" }
                dd {
                    @if end.releases.is_empty() { "none" } @else { (end.releases.join(", ")) }
                    @if !end.closed.is_empty() { "; closed: " (end.closed.join(", ")) }
                }
            }
            dt { "Next sync" } dd { (of.next(now)) }
            dt { "Runs now" } dd { (runs_now(of)) }
            @if let Some(sent) = of.transfer.sent.back() {
                dt { "Last for a tag" }
                dd { (package_link(sent.id.package.as_str())) "/" (sent.id.version) ", " (age(now, sent.at)) " ago" }
            }
            @if let Some(facts) = &of.facts {
                dt { "Machine" }
                dd {
                    (size(facts.free_bytes)) " free, clock " (format!("{:+}", facts.clock_ahead)) " s, helper "
                    (facts.helper) " (" (facts.build) "), seen " (age(now, facts.at)) " ago"
                }
            }
            @if let Some(upkeep) = &of.upkeep { dt { "Upkeep there" } dd { (upkeep_in_words(upkeep)) } }
        }
    }
}

fn queue(of: &Target, now: Seconds) -> Markup {
    html! {
        h2 { "Tags" }
        p { (of.tags.fresh) " fresh, " (of.tags.queued) " queued" }
        @if !of.tags.shown.is_empty() {
            table {
                caption { "Those that have been queued longest" }
                thead { tr { th scope="col" { "Tag" } th scope="col" { "Age" } th scope="col" { "Waits because" } } }
                tbody { @for tag in &of.tags.shown {
                    tr {
                        th scope="row" { (tag_name(&tag.tag)) }
                        td { (age(now, tag.since)) }
                        td { (tag.reason.as_deref().unwrap_or("being worked on, or next")) }
                    }
                } }
            }
        }
    }
}

fn tag_name(tag: &str) -> Markup {
    match tag.parse::<Tag>() {
        Ok(Tag(id)) => html! { (package_link(id.package.as_str())) " " (id.version) },
        Err(_) => html! { (tag) },
    }
}

fn missing(of: &Target, now: Seconds) -> Markup {
    html! {
        h2 { "Missing" }
        @if of.oldest.is_empty() { p { "Nothing is known to be missing." } }
        @else {
            table {
                caption { (of.missing) " packages, those first that have been missing longest" }
                thead { tr { th scope="col" { "Package" } th scope="col" { "For" } th scope="col" { "Because" } } }
                tbody { @for item in &of.oldest {
                    tr {
                        th scope="row" { (package_link(item.id.package.as_str())) " " (item.id.version) }
                        td { (age(now, item.since)) }
                        td { (item.reason) }
                    }
                } }
            }
        }
    }
}

fn rejected(of: &Target) -> Markup {
    html! {
        h2 { "Rejected tags" }
        @if of.rejected.is_empty() { p { "None." } }
        @else {
            table {
                caption { "The last first" }
                thead { tr { th scope="col" { "Tag" } th scope="col" class="wide" { "At" } th scope="col" { "Because" } } }
                tbody { @for rejected in &of.rejected {
                    tr {
                        th scope="row" { (tag_name(&rejected.tag)) }
                        td class="wide" { (rejected.at) }
                        td { (rejected.reason) }
                    }
                } }
            }
        }
    }
}
