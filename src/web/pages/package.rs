//! The page of one package: each version on each target, and why.

use maud::{Markup, html};

use super::{frame, in_address, search};
use crate::explain::{Explained, lines};

/// What was explained of `package`, or why it could not be.
pub(in crate::web) fn package(package: &str, explained: Result<&[Explained], &str>) -> Markup {
    let title = if package.is_empty() { "Packages" } else { package };
    let inside = html! {
        h1 { (title) }
        (search(package))
        @match explained {
            Err(why) => p { (why) },
            Ok([]) if package.is_empty() => p { "Give the name of a package." },
            Ok([]) => p { "No target asks for it, has it or has a tag for it, and no source archive has it." },
            Ok(all) => @for of in all { (one(of)) },
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
