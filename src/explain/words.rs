//! The explanation in words.

use std::fmt::Write;

use super::{Explained, Place, TagState};
use crate::state::WantedBy;
use crate::status::text::plain;
use crate::told::time;

/// As JSON, in one line.
pub fn json(all: &[Explained]) -> String {
    serde_json::to_string(all).expect("texts and numbers") + "\n"
}

/// For people.
pub fn text(all: &[Explained]) -> String {
    if all.is_empty() {
        return "Nothing is known of it: no target asks for it, has it or has a tag for it, and no source \
                archive has it.\n"
            .into();
    }
    all.iter().map(one).collect()
}

/// That so many versions are left out, if any.
pub fn left_out(count: usize) -> Option<String> {
    (count > 0).then(|| format!("{count} more versions are left out: name one to have it explained"))
}

/// What it comes to.
pub(super) fn summary(of: &Explained) -> &'static str {
    let there = matches!(of.there, Place::Version { .. } | Place::Link(_));
    let same = match (&of.here, &of.there) {
        (Place::Version { stamp: here, .. }, Place::Version { stamp: there, .. }) => here == there,
        (Place::Link(here), Place::Link(there)) => here == there,
        _ => false,
    };
    let waits = matches!(of.tag, Some(TagState::Dropped | TagState::Queued { .. }));
    match (there, same, !of.wanted_by.is_empty()) {
        (true, true, true) => "it is there, as it should be",
        (true, true, false) if waits => "it is there, and a tag asks for it",
        (true, true, false) if of.as_of.is_none() => "it is there, and no synchronisation has asked yet",
        (true, true, false) => "it is there, though nothing asks for it (in excess)",
        (true, false, _) if matches!(of.here, Place::Nothing(_)) => {
            "it is there, and the source archive does not have it any more"
        }
        (true, false, _) if matches!(of.here, Place::Other(_)) => {
            "it is there, and cannot be compared with what the source archive has"
        }
        (true, false, _) => "another build of it is there",
        (false, _, true) => "it is missing",
        (false, _, false) if waits => "it is not there, and a tag asks for it",
        (false, _, false) => "it is not there, and nothing asks for it",
    }
}

fn one(of: &Explained) -> String {
    let mut text = format!("{} on {}: {}\n", of.id, of.target, of.summary);
    for (name, value) in lines(of) {
        let _ = writeln!(text, "  {name:<9} {}", plain(&value));
    }
    text
}

/// What there is to say of it, each with its name.
pub fn lines(of: &Explained) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let mut line = |name, value| lines.push((name, value));
    line("asked by", wanted(of));
    line("here", place(&of.here));
    line("there", place(&of.there));
    if let Some(tag) = &of.tag {
        line("tag", tag_words(tag));
    }
    if let Some(excess) = &of.excess {
        let mark = if excess.marked { "it has a mark" } else { "it has no mark" };
        line("excess", format!("{mark}: {}", excess.reason));
    }
    if let Some((since, reason)) = &of.missing {
        line("missing", format!("since {}: {reason}", time(*since)));
    }
    match &of.sent {
        Some(sent) => line("sent", format!("{} for a {}", time(sent.at), sent.cause)),
        None => line("sent", "never, as far as the journal goes".into()),
    }
    of.troubles.iter().for_each(|trouble| line("but", trouble.clone()));
    lines
}

fn wanted(of: &Explained) -> String {
    let Some(as_of) = of.as_of else { return "not known: no synchronisation has asked yet".into() };
    let by = of.wanted_by.iter().map(|by| match by {
        WantedBy::Release(release) => format!("the release {release}"),
        WantedBy::Packages => "[packages] of the target".into(),
        WantedBy::Link => "a link that leads here".into(),
    });
    let by: Vec<String> = by.collect();
    let by = if by.is_empty() { "no open release".to_owned() } else { by.join(", ") };
    let closed = match of.closed.as_slice() {
        [] => String::new(),
        closed => format!("; closed: {}", closed.join(", ")),
    };
    format!("{by} (asked {}){closed}", time(as_of))
}

fn place(place: &Place) -> String {
    match place {
        Place::Nothing(why) | Place::Other(why) => why.clone(),
        Place::Version { stamp, writable } => {
            let built = u64::try_from(*stamp).map(time).unwrap_or_default();
            let writable = if *writable { ", still writable" } else { "" };
            format!("stamp {stamp} ({built}){writable}")
        }
        Place::Link(text) => format!("a link to {text}"),
    }
}

fn tag_words(tag: &TagState) -> String {
    match tag {
        TagState::Dropped => "dropped, not taken up yet".into(),
        TagState::Queued { since, reason, due } => {
            let due = due.map(|due| format!("; looked at again {}", time(due))).unwrap_or_default();
            let reason = reason.as_deref().unwrap_or("being worked on, or next");
            format!("taken up {}: {reason}{due}", time(*since))
        }
        TagState::Rejected { at, reason } => format!("rejected at {at}: {reason}"),
    }
}
