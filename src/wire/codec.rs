//! Bounded reading and writing of the protocol's integers and strings.
//!
//! Source: "Protocol Data Types" in the MariaDB and MySQL protocol documentation.

use bytes::{BufMut, BytesMut};

/// A packet that does not follow the protocol; says which field broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed packet: {0}")]
pub struct Malformed(pub &'static str);

/// A cursor over one packet's payload. Every read is checked against the end.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `payload`.
    pub fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `n` bytes; `what` names the field in the error.
    pub fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        if self.rest.len() < n {
            return Err(Malformed(what));
        }
        let (head, tail) = self.rest.split_at(n);
        self.rest = tail;
        Ok(head)
    }

    /// A one-byte integer.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(self.take(1, what)?[0])
    }

    /// A little-endian two-byte integer.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        let b = self.take(2, what)?;
        Ok(u16::from_le_bytes([b[0], b[1]]))
    }

    /// A little-endian four-byte integer.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        let b = self.take(4, what)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// A length-encoded integer. The markers 0xFB (NULL) and 0xFF are errors here.
    pub fn lenenc(&mut self, what: &'static str) -> Result<u64, Malformed> {
        match self.u8(what)? {
            n @ 0..=0xFA => Ok(u64::from(n)),
            0xFC => Ok(u64::from(self.u16(what)?)),
            0xFD => {
                let b = self.take(3, what)?;
                Ok(u64::from(u32::from_le_bytes([b[0], b[1], b[2], 0])))
            }
            0xFE => {
                let mut all = [0; 8];
                all.copy_from_slice(self.take(8, what)?);
                Ok(u64::from_le_bytes(all))
            }
            _ => Err(Malformed(what)),
        }
    }

    /// A length-encoded string.
    pub fn lenenc_bytes(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let n = usize::try_from(self.lenenc(what)?).map_err(|_| Malformed(what))?;
        self.take(n, what)
    }

    /// A string that ends with a NUL byte, which is consumed and not returned.
    pub fn nul_bytes(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let end = self.rest.iter().position(|b| *b == 0).ok_or(Malformed(what))?;
        let text = self.take(end, what)?;
        self.take(1, what)?;
        Ok(text)
    }

    /// A string that ends with a NUL byte or with the packet; some clients leave the last NUL out.
    pub fn nul_or_rest(&mut self) -> &'a [u8] {
        match self.rest.iter().position(|b| *b == 0) {
            Some(end) => {
                let (text, tail) = self.rest.split_at(end);
                self.rest = &tail[1..];
                text
            }
            None => std::mem::take(&mut self.rest),
        }
    }
}

/// Appends a length-encoded integer.
pub fn put_lenenc(out: &mut BytesMut, value: u64) {
    match value {
        0..=0xFA => out.put_u8(value as u8),
        0xFB..=0xFFFF => {
            out.put_u8(0xFC);
            out.put_u16_le(value as u16);
        }
        0x1_0000..=0xFF_FFFF => {
            out.put_u8(0xFD);
            out.put_uint_le(value, 3);
        }
        _ => {
            out.put_u8(0xFE);
            out.put_u64_le(value);
        }
    }
}

/// Appends a length-encoded string.
pub fn put_lenenc_bytes(out: &mut BytesMut, value: &[u8]) {
    put_lenenc(out, value.len() as u64);
    out.put_slice(value);
}

/// Appends a string and its NUL byte.
pub fn put_nul_bytes(out: &mut BytesMut, value: &[u8]) {
    out.put_slice(value);
    out.put_u8(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_null_marker_is_no_integer() {
        assert_eq!(Reader::new(&[0xFB]).lenenc("n"), Err(Malformed("n")));
        assert_eq!(Reader::new(&[0xFF]).lenenc("n"), Err(Malformed("n")));
    }

    #[test]
    fn a_length_beyond_the_packet_is_an_error() {
        assert_eq!(Reader::new(&[5, b'a']).lenenc_bytes("s"), Err(Malformed("s")));
        assert_eq!(
            Reader::new(&[0xFE, 255, 255, 255, 255, 255, 255, 255, 255]).lenenc_bytes("s"),
            Err(Malformed("s"))
        );
    }

    proptest! {
        #[test]
        fn integers_survive_a_round_trip(value: u64) {
            let mut out = BytesMut::new();
            put_lenenc(&mut out, value);
            let mut r = Reader::new(&out);
            prop_assert_eq!(r.lenenc("n"), Ok(value));
            prop_assert!(r.is_empty());
        }

        #[test]
        fn strings_survive_a_round_trip(value: Vec<u8>) {
            let mut out = BytesMut::new();
            put_lenenc_bytes(&mut out, &value);
            prop_assert_eq!(Reader::new(&out).lenenc_bytes("s"), Ok(&value[..]));
        }

        #[test]
        fn no_input_panics(input: Vec<u8>) {
            let mut r = Reader::new(&input);
            while !r.is_empty() {
                if r.lenenc_bytes("s").is_err() { break; }
            }
            let _ = Reader::new(&input).nul_bytes("s");
            let _ = Reader::new(&input).nul_or_rest();
        }
    }
}
