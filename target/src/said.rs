//! What the host says first, on the helper's command line: bytes in hexadecimal.

/// As it stands on the command line.
pub fn encode(said: &[u8]) -> String {
    said.iter().fold(String::with_capacity(2 * said.len()), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(digit.into(), 16));
        }
        text
    })
}

/// Reads what stands there; none if it is no hexadecimal.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = text.as_chunks();
    rest.is_empty().then_some(())?;
    pairs.iter().map(|[high, low]| Some((digit(*high)? << 4 | digit(*low)?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(encode(&all).as_bytes()), Some(all));
        assert_eq!(encode(b"\x00bl"), "00626c");
        for bad in ["0", "0g", "+1", " 0"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
