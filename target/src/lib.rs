//! The target side of blat, and the vocabulary that both sides share.
//!
//! In the order in which a package meets them: its name ([`package`]), the stamp
//! that tells two builds apart ([`stamp`]), what it consists of ([`manifest`]),
//! and the words that cross the wire ([`message`], in [`frame`]s). What stands in a whole
//! archive is a [`listing`], made by [`list`].
//!
//! Then what only a target does, [`serve`]: frames are taken from the channel and
//! inflated, a package is received and staged, and committed; sessions are on record.

pub mod frame;
pub mod list;
pub mod listing;
pub mod manifest;
pub mod mark;
pub mod message;
pub mod names;
pub mod package;
pub mod stamp;

pub mod command_line;
pub mod serve;

mod channel;
mod commit;
mod inflate;
mod package_list;
mod receive;
mod stage;

mod archive;
mod folder;
mod refusal;
mod remove;
mod sessions;
