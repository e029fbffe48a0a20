//! A packed stream: one zstd frame, or several of so many bytes each.

use std::io::{self, Write};

use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::CCtx;

/// Packs what is written to it into `out`.
pub(crate) struct Stream<W> {
    encoder: Encoder<'static>,
    packed: Vec<u8>,
    out: W,
    /// How many bytes one frame holds at most,
    frame_max: usize,
    /// and how many more the current one does.
    left: usize,
    /// Whether there is a current one.
    is_open: bool,
}

impl<W: Write> Stream<W> {
    /// With zstd's parameters beside its level, and frames of so many bytes at most.
    pub(super) fn new(
        level: i32,
        parameters: &[CParameter],
        frame_max: Option<usize>,
        out: W,
    ) -> io::Result<Self> {
        let mut encoder = Encoder::new(level)?;
        parameters.iter().try_for_each(|parameter| encoder.set_parameter(*parameter))?;
        // As much as zstd makes at once: less would go through a buffer of its own.
        let packed = Vec::with_capacity(CCtx::out_size());
        let frame_max = frame_max.unwrap_or(usize::MAX);
        Ok(Self { encoder, packed, out, frame_max, left: frame_max, is_open: true })
    }

    /// Whether a frame is open, of which what comes next becomes a part.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Ends the stream.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.end_frame()?;
        Ok(self.out)
    }

    /// Ends the frame. What is written after it begins another, in the same memory.
    pub(crate) fn end_frame(&mut self) -> io::Result<()> {
        if self.is_open {
            while self.step(|encoder, packed| encoder.finish(packed, false))? > 0 {}
            self.is_open = false;
        }
        self.out.flush()
    }

    /// Has the encoder do something, and hands on what comes out; what that returned.
    fn step(
        &mut self,
        work: impl FnOnce(&mut Encoder<'static>, &mut OutBuffer<'_, Vec<u8>>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.packed.clear();
        let done = work(&mut self.encoder, &mut OutBuffer::around(&mut self.packed))?;
        self.out.write_all(&self.packed)?;
        Ok(done)
    }
}

impl<W: Write> Write for Stream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            self.end_frame()?;
        }
        if !self.is_open {
            self.encoder.reinit()?;
            (self.left, self.is_open) = (self.frame_max, true);
        }
        let taken = bytes.len().min(self.left);
        let mut input = InBuffer::around(&bytes[..taken]);
        while input.pos() < taken {
            self.step(|encoder, packed| encoder.run(&mut input, packed))?;
        }
        self.left -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.is_open && self.step(|encoder, packed| encoder.flush(packed))? > 0 {}
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_full_before_the_next_begins() {
        for length in [0, 1, 9, 10, 11, 30, 35] {
            let bytes: Vec<u8> = (0..length).collect();
            let mut stream = Stream::new(1, &[], Some(10), Vec::new()).unwrap();
            bytes.chunks(4).for_each(|piece| stream.write_all(piece).unwrap());
            let packed = stream.finish().unwrap();
            assert_eq!(zstd::decode_all(&packed[..]).unwrap(), bytes);
            let magic = 0xfd2f_b528_u32.to_le_bytes();
            let frames = packed.windows(4).filter(|it| *it == magic).count();
            assert_eq!(frames, usize::from(length).div_ceil(10).max(1), "of {length} bytes");
        }
    }

    #[test]
    fn after_its_end_a_frame_is_followed_by_another() {
        let mut stream = Stream::new(1, &[], None, Vec::new()).unwrap();
        stream.write_all(b"some").unwrap();
        stream.end_frame().unwrap();
        let ended = stream.out.len();
        assert_eq!(zstd::decode_all(&stream.out[..]).unwrap(), b"some");
        stream.end_frame().unwrap();
        stream.flush().unwrap();
        assert_eq!(stream.write(b"").unwrap(), 0);
        assert_eq!(stream.out.len(), ended, "nothing was written after it");
        stream.write_all(b"thing").unwrap();
        assert_eq!(zstd::decode_all(&stream.finish().unwrap()[..]).unwrap(), b"something");
    }

    #[test]
    fn what_was_flushed_can_be_read() {
        let mut stream = Stream::new(1, &[], Some(10), Vec::new()).unwrap();
        for piece in [&b"some"[..], b"thing", b"more"] {
            stream.write_all(piece).unwrap();
            stream.flush().unwrap();
        }
        let mut reader = zstd::Decoder::new(&stream.out[..]).unwrap();
        let mut all = [0; 13];
        io::Read::read_exact(&mut reader, &mut all).unwrap();
        assert_eq!(&all, b"somethingmore");
    }
}
