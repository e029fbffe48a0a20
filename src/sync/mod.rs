//! Repository synchronisation: which package-versions a target should have ([`current_set`]), what
//! is to be done about it ([`plan`]; [`aging`], of what is in excess), how that is shown ([`plan_text`]), what the target is told
//! that it should have ([`package_list`]), and the run that does it all ([`run`]).

pub mod aging;
pub mod current_set;
pub mod package_list;
pub mod plan;
pub mod plan_text;
pub mod rows;

mod age;
mod aged_text;
mod bucket;
mod carry;
mod good;
pub(crate) mod known;
mod record;
mod room;
mod show;
mod stop;

pub mod run;
pub mod upkeep;
