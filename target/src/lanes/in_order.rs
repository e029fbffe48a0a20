//! A session's input, in the order in which its host sent it: by one channel, and from a place on by several.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{BLOCK_HEAD, BLOCK_MAX, Further, Switch, WINDOW};
use crate::channel::Output;
use crate::message::ToHost;

/// The host is told of so many bytes more that came by a lane, or in order.
const TELL_EVERY: u64 = 128 << 10;

/// A session's input.
pub(crate) struct InOrder {
    /// The session's own channel, and behind it the others, once it is spread.
    lanes: Vec<Lane>,
    switch: Switch,
    /// How many bytes came before it was spread.
    at: u64,
    spread: Option<Spread>,
}

/// What came of a session that is spread.
struct Spread {
    output: Arc<Output>,
    /// Blocks that were not taken up yet, by their places.
    blocks: BTreeMap<u64, Vec<u8>>,
    /// How many bytes were taken up,
    place: u64,
    /// and of how many the host was told.
    told: u64,
}

/// What comes by one channel.
struct Lane {
    input: File,
    /// The first bytes of a block that is not whole yet.
    begun: Vec<u8>,
    /// How many bytes came in blocks that are,
    came: u64,
    /// and of how many the host was told.
    told: u64,
    ended: bool,
}

impl InOrder {
    /// The input that comes by `channel`, of which so many bytes came already.
    pub(crate) fn new(channel: File, at: u64, switch: Switch) -> Self {
        Self { lanes: vec![Lane::new(channel)], switch, at, spread: None }
    }
}

impl Read for InOrder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(spread) = &mut self.spread {
            return spread.read(&mut self.lanes, buffer);
        }
        let until = self.switch.at().checked_sub(self.at);
        let until = until.ok_or_else(|| broken("spread what was read already"))?;
        let until = usize::try_from(until).unwrap_or(usize::MAX);
        if until == 0
            && let Some(Further { inputs, output }) = self.switch.take()
        {
            self.lanes.extend(inputs.into_iter().map(Lane::new));
            let spread = Spread { output, blocks: BTreeMap::new(), place: 0, told: 0 };
            return self.spread.insert(spread).read(&mut self.lanes, buffer);
        }
        let most = buffer.len().min(until);
        let came = self.lanes[0].input.read(&mut buffer[..most])?;
        self.at += came as u64;
        Ok(came)
    }
}

impl Spread {
    /// As much of what comes next as is there, once something is; nothing when that cannot come any more.
    fn read(&mut self, lanes: &mut [Lane], buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let taken = self.take_up(buffer)?;
            self.tell(lanes);
            if taken > 0 || !self.hear(lanes)? {
                return Ok(taken);
            }
        }
    }

    /// Takes up blocks whose turn it is, as many as there is room for.
    fn take_up(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut taken = 0;
        while let Some(block) = self.blocks.first_entry()
            && *block.key() <= self.place
        {
            if *block.key() < self.place {
                return Err(broken("sent a part of the session twice"));
            }
            let mut block = block.remove();
            let count = block.len().min(buffer.len() - taken);
            buffer[taken..taken + count].copy_from_slice(&block[..count]);
            (taken, self.place) = (taken + count, self.place + count as u64);
            if count < block.len() {
                block.drain(..count);
                self.blocks.insert(self.place, block);
                break;
            }
        }
        Ok(taken)
    }

    /// Waits until something comes by any of the lanes, and reads it; whether anything may still come.
    fn hear(&mut self, lanes: &mut [Lane]) -> io::Result<bool> {
        let mut open: Vec<_> = lanes.iter_mut().filter(|lane| !lane.ended).collect();
        if open.is_empty() {
            return Ok(false);
        }
        let ready = ready(&open)?;
        for (lane, _) in open.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            lane.read(&mut self.blocks)?;
        }
        let came: u64 = lanes.iter().map(|lane| lane.came).sum();
        if came - self.place > WINDOW * lanes.len() as u64 {
            return Err(broken("sent more than may wait for what comes before it"));
        }
        Ok(true)
    }

    /// Tells the host what came, if that is much more than it knows.
    fn tell(&mut self, lanes: &mut [Lane]) {
        let is_due = |came: u64, told: u64| came - told >= TELL_EVERY;
        if is_due(self.place, self.told) || lanes.iter().any(|lane| is_due(lane.came, lane.told)) {
            let came = lanes.iter().map(|lane| lane.came).collect();
            // A host that hears nothing any more is gone, which the input tells.
            let _ = self.output.say(&ToHost::Came { place: self.place, lanes: came });
            self.told = self.place;
            lanes.iter_mut().for_each(|lane| lane.told = lane.came);
        }
    }
}

/// Waits until one of them has something to read, or its end; which do.
fn ready(lanes: &[&mut Lane]) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> =
        lanes.iter().map(|lane| PollFd::new(lane.input.as_fd(), PollFlags::POLLIN)).collect();
    poll(&mut polled, PollTimeout::NONE)?;
    Ok(polled.iter().map(|polled| polled.any().unwrap_or(true)).collect())
}

impl Lane {
    fn new(input: File) -> Self {
        Self { input, begun: Vec::new(), came: 0, told: 0, ended: false }
    }

    /// Reads once, which does not wait where something is ready.
    fn read(&mut self, blocks: &mut BTreeMap<u64, Vec<u8>>) -> io::Result<()> {
        let begun = self.begun.len();
        self.begun.resize(begun + BLOCK_MAX, 0);
        let read = self.input.read(&mut self.begun[begun..]);
        self.begun.truncate(begun + *read.as_ref().unwrap_or(&0));
        self.ended = read? == 0;
        let mut rest = &self.begun[..];
        while let Some(block) = Block::split(rest)? {
            self.came += block.bytes.len() as u64;
            if blocks.insert(block.place, block.bytes.to_vec()).is_some() {
                return Err(broken("sent a part of the session twice"));
            }
            rest = block.behind;
        }
        let done = self.begun.len() - rest.len();
        self.begun.drain(..done);
        Ok(())
    }
}

/// A block, and what stands behind it.
struct Block<'a> {
    place: u64,
    bytes: &'a [u8],
    behind: &'a [u8],
}

impl<'a> Block<'a> {
    /// The first one of these bytes; none where it is not whole.
    fn split(bytes: &'a [u8]) -> io::Result<Option<Self>> {
        let Some((head, rest)) = bytes.split_first_chunk::<BLOCK_HEAD>() else { return Ok(None) };
        let [place @ .., a, b, c, d] = *head;
        let (place, length) = (u64::from_le_bytes(place), u32::from_le_bytes([a, b, c, d]) as usize);
        if !(1..=BLOCK_MAX).contains(&length) {
            return Err(broken(&format!("sent a block of {length} bytes by one of several channels")));
        }
        Ok(rest.split_at_checked(length).map(|(bytes, behind)| Self { place, bytes, behind }))
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the host {what}"))
}
