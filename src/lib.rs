//! The host side of blat, in the order in which a package meets it: what is configured
//! ([`config`], [`generator`]), what is asked for ([`tags`]), what the archive has
//! ([`archive`]), what a target should have ([`release`],
//! [`sync`]), how it is packed
//! ([`pack`]) and sent ([`ssh`], [`session`]), the run that does so ([`transfer`]), and the agent that holds the connection and tells what
//! happened ([`agent`], [`report`], [`ledger`], [`history`]), and how it stands ([`state`], [`status`], [`explain`], [`web`]).

pub mod config;
pub mod generator;
pub mod look;
pub mod places;

pub mod tags;

pub mod archive;
pub mod bases;
mod buffers;

pub mod delta;
mod jobs;
pub mod lanes;
pub mod memory;
mod outlet;
pub mod pace;
pub mod pack;
mod packer;
mod press;
pub mod ready;
mod resume;

pub mod bucket;
pub mod channel;
pub mod helper;
pub mod progress;
pub mod session;
pub mod ssh;

pub mod release;
pub mod sync;

pub mod transfer;

pub mod hold;
pub mod target_install;

pub mod agent;
pub mod explain;
pub mod history;
pub mod ledger;
pub mod notify;
pub mod report;
pub mod state;
pub mod status;
pub mod trigger;
pub mod web;

pub mod doctor;
pub mod enroll;
pub mod shell;

pub mod command_line;
pub mod failure;
pub mod lock;
pub mod log;
pub mod start;
pub mod told;
