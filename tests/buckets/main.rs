//! Buckets on real servers, each a process of its own on loopback: what is put there is what clients
//! that are not ours find, it costs as few requests as promised, and whatever fails is told so that a
//! person can mend it.
//!
//! Run with `make buckets`. Not part of a plain `cargo test`: servers and clients come from PyPI.

mod aging;
mod agree;
mod faults;
mod index;
mod master;
mod proxy;
mod servers;
mod together;
mod way;
