//! The target side of blat, and the vocabulary that both sides share.
//!
//! In the order in which a package meets them: its name ([`package`]), the stamp
//! that tells two builds apart ([`stamp`]), what it consists of ([`manifest`]),
//! what it shares with another version ([`delta`]), and the words that cross the wire
//! ([`message`], in [`frame`]s). What stands in a whole
//! archive is a [`listing`], made by [`list`].
//!
//! Then what only a target does, [`serve`]: frames are taken from the channel and
//! inflated, a package is received and staged, and committed; sessions are on record,
//! and what a broken one left of a large package is gone on with. What left the current
//! set is marked, and deleted once it may be: by a session, or by [`purge`].

pub mod delta;
pub mod frame;
pub mod lanes;
pub mod list;
pub mod listing;
pub mod manifest;
pub mod mark;
pub mod message;
pub mod names;
pub mod package;
pub mod said;
pub mod stamp;

pub mod command_line;
pub mod index;
pub mod install;
pub mod purge;
pub mod serve;

mod ahead;
mod channel;
mod clone;
mod commit;
mod delete;
mod history;
mod inflate;
mod marks;
mod package_list;
mod partial;
mod rebuild;
mod receive;
mod resume;
mod stage;
mod update;
mod whole_file;

mod aging;
mod archive;
mod folder;
mod held;
mod refusal;
mod remove;
mod sessions;
mod turn;
