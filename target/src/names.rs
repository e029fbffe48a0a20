//! Many short texts in one piece of memory: a name costs its bytes and eight more, so that a
//! million package-versions fit where a million strings would not.

/// Where a text lies in its [`Names`]. Means nothing in any other.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    start: u32,
    length: u32,
}

/// Texts, one behind the other. They are only ever added.
#[derive(Clone, Debug, Default)]
pub struct Names {
    bytes: Vec<u8>,
}

/// There are more than 4 GiB of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are more names than fit into 4 GiB")]
pub struct TooMany;

impl Names {
    /// Adds a text.
    ///
    /// # Errors
    /// When all of them would be more than 4 GiB.
    pub fn add(&mut self, text: &[u8]) -> Result<Span, TooMany> {
        let start = u32::try_from(self.bytes.len()).map_err(|_| TooMany)?;
        let length = u32::try_from(text.len()).map_err(|_| TooMany)?;
        start.checked_add(length).ok_or(TooMany)?;
        self.bytes.extend_from_slice(text);
        Ok(Span { start, length })
    }

    /// The bytes of a text that was added here.
    pub fn bytes(&self, at: Span) -> &[u8] {
        &self.bytes[at.start as usize..][..at.length as usize]
    }

    /// A text that was added here as one; empty if it was none.
    pub fn text(&self, at: Span) -> &str {
        std::str::from_utf8(self.bytes(at)).unwrap_or_default()
    }
}
