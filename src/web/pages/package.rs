//! The page of one package: each version on each target, and why.

use maud::{Markup, html};

use super::{frame, in_address, search};
use crate::explain::{Explained, Explanation, left_out, lines};

/// What was explained of `package`, or why it could not be.
pub(in crate::web) fn package(package: &str, explained: Result<&Explanation, &str>) -> Markup {
    let title = if package.is_empty() { "Packages" } else { package };
    let inside = html! {
        h1 { (title) }
        (search(package))
        @match explained {
            Err(why) => p { (why) },
            Ok(of) if of.all.is_empty() && package.is_empty() => p { "Give the name of a package." },
            Ok(of) if of.all.is_empty() => p { "No target asks for it, has it or has a tag for it, and no source archive has it." },
            Ok(explained) => {
                @for of in &explained.all { (one(of)) }
                @if let Some(left_out) = left_out(explained.left_out) { p { (left_out) } }
            },
        }
    };
    frame(title, &inside)
}

fn one(of: &Explained) -> Markup {
    html! {
        section {
            h2 {
                (of.id.version) " on " a href={ "/target/" (in_address(&of.target)) } { (of.target) }
                ": " (of.summary)
            }
            dl { @for (name, value) in lines(of) { dt { (name) } dd { (value) } } }
        }
    }
}
