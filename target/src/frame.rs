//! Frames: how messages and package bytes are cut on the channel of a session.
//!
//! Each side first sends [`MAGIC`] once, then frames. A frame is a header of five
//! bytes, the payload's length (32 bits, little-endian) and its kind, and the
//! payload: `0` is a piece of the packed stream, `1` a message in
//! [postcard](https://postcard.jamesmunns.com/wire-format)'s encoding.
//!
//! A channel can end cleanly in the middle of anything (ssh reports a cut line as an
//! end of file), so the end of the input is never read as the end of a session: that
//! is a message of its own.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

/// What each side sends first. A host skips what a login shell prints before it.
pub const MAGIC: &[u8; 8] = b"\0blat\r\n\x1a";
/// The largest payload, in bytes, that is sent or taken.
pub const PAYLOAD_MAX: usize = 1 << 20;
/// The length of a frame's header, in bytes.
pub const HEADER_LEN: usize = 5;

const DATA: u8 = 0;
const MESSAGE: u8 = 1;

/// What a frame carries.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame<M> {
    /// A piece of the packed stream.
    Data(Vec<u8>),
    Message(M),
}

/// Why the peer's bytes are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the connection ended in the middle of a session")]
    Ended,
    #[error("the peer announced a frame of {0} bytes, more than the {PAYLOAD_MAX} that are allowed")]
    TooLong(usize),
    #[error("the peer sent a frame of the unknown kind {0}")]
    Kind(u8),
    #[error("the peer sent a message that cannot be read: {0}")]
    Message(postcard::Error),
    #[error("the channel failed: {0}")]
    Io(#[from] io::Error),
}

/// A frame's header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The payload's length in bytes, at most [`PAYLOAD_MAX`].
    pub length: usize,
    kind: u8,
}

impl Header {
    /// Reads a header, and refuses lengths and kinds that no peer of ours sends.
    pub fn parse(bytes: [u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [a, b, c, d, kind] = bytes;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > PAYLOAD_MAX {
            return Err(FrameError::TooLong(length));
        }
        if kind > MESSAGE {
            return Err(FrameError::Kind(kind));
        }
        Ok(Self { length, kind })
    }

    /// Whether it is that of a piece of the packed stream.
    pub fn is_data(self) -> bool {
        self.kind == DATA
    }

    fn bytes(self) -> [u8; HEADER_LEN] {
        let [a, b, c, d] = (self.length as u32).to_le_bytes();
        [a, b, c, d, self.kind]
    }

    /// Makes the frame of its payload, which must have the announced length.
    pub fn frame<M: DeserializeOwned>(self, payload: Vec<u8>) -> Result<Frame<M>, FrameError> {
        if self.kind == DATA {
            return Ok(Frame::Data(payload));
        }
        match postcard::take_from_bytes(&payload) {
            Ok((message, [])) => Ok(Frame::Message(message)),
            Ok(_) => Err(FrameError::Message(postcard::Error::SerdeDeCustom)),
            Err(why) => Err(FrameError::Message(why)),
        }
    }
}

/// A message as a whole frame.
///
/// # Panics
/// When the message is larger than [`PAYLOAD_MAX`]: whoever builds one bounds it.
pub fn message<M: Serialize>(message: &M) -> Vec<u8> {
    let mut frame =
        postcard::to_extend(message, vec![0; HEADER_LEN]).expect("messages of ours can be encoded");
    seal(&mut frame, MESSAGE);
    frame
}

/// A piece of the packed stream as a whole frame; at most [`PAYLOAD_MAX`] bytes.
pub fn data(piece: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_LEN + piece.len());
    frame.extend_from_slice(&[0; HEADER_LEN]);
    frame.extend_from_slice(piece);
    seal(&mut frame, DATA);
    frame
}

fn seal(frame: &mut [u8], kind: u8) {
    let length = frame.len() - HEADER_LEN;
    assert!(length <= PAYLOAD_MAX, "a frame of {length} bytes was built");
    frame[..HEADER_LEN].copy_from_slice(&Header { length, kind }.bytes());
}

/// Reads one frame. The end of the input is [`FrameError::Ended`], wherever it comes.
pub fn read<M: DeserializeOwned>(input: &mut impl Read) -> Result<Frame<M>, FrameError> {
    let mut header = [0; HEADER_LEN];
    read_exact(input, &mut header)?;
    let header = Header::parse(header)?;
    let mut payload = vec![0; header.length];
    read_exact(input, &mut payload)?;
    header.frame(payload)
}

/// Writes a message and flushes.
pub fn write<M: Serialize>(output: &mut impl Write, what: &M) -> io::Result<()> {
    output.write_all(&message(what))?;
    output.flush()
}

fn read_exact(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), FrameError> {
    input.read_exact(buffer).map_err(|why| match why.kind() {
        io::ErrorKind::UnexpectedEof => FrameError::Ended,
        _ => FrameError::Io(why),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{ToHost, ToTarget};
    use proptest::prelude::*;

    #[test]
    fn a_cut_frame_is_an_end_not_a_message() {
        let whole = message(&ToHost::Alive);
        for cut in 0..whole.len() {
            let read = read::<ToHost>(&mut &whole[..cut]);
            assert!(matches!(read, Err(FrameError::Ended)), "cut at {cut}: {read:?}");
        }
    }

    #[test]
    fn trailing_bytes_in_a_message_are_refused() {
        let mut frame = message(&ToHost::Alive);
        frame.push(7);
        seal(&mut frame, MESSAGE);
        assert!(matches!(read::<ToHost>(&mut &frame[..]), Err(FrameError::Message(_))));
    }

    #[test]
    fn an_endless_frame_is_refused_before_it_is_read() {
        let header = [0xff, 0xff, 0xff, 0xff, DATA];
        assert!(matches!(Header::parse(header), Err(FrameError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn data_comes_back(piece in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let frame = data(&piece);
            prop_assert_eq!(read::<ToTarget>(&mut &frame[..]).unwrap(), Frame::Data(piece));
        }

        #[test]
        fn noise_is_an_error_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read::<ToTarget>(&mut &bytes[..]);
            let _ = read::<ToHost>(&mut &bytes[..]);
        }
    }
}
