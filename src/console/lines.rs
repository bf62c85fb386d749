//! Lines out of bytes, without I/O: telnet's own sequences are taken out, lengths are bounded.
//!
//! Telnet (RFC 854) sends `IAC` (255) and what belongs to it between the typed bytes; programs such as `nc` send
//! none. A line ends with LF, CR LF, or the CR NUL of telnet.

/// The longest line in bytes, without its end.
pub const LONGEST: usize = 4096;

const IAC: u8 = 255;
const SUBNEGOTIATION: u8 = 250;
const SUBNEGOTIATION_END: u8 = 240;
/// WILL, WONT, DO and DONT; each is followed by the number of an option.
const NEGOTIATIONS: std::ops::RangeInclusive<u8> = 251..=254;

/// What a line's end brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The bytes of the line.
    Bytes(Vec<u8>),
    /// There were more than [`LONGEST`]; they are dropped.
    TooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Telnet {
    #[default]
    Data,
    AfterIac,
    Option,
    Subnegotiation,
    SubnegotiationIac,
}

/// The state between bytes.
#[derive(Debug, Default)]
pub struct Lines {
    telnet: Telnet,
    pending: Vec<u8>,
    too_long: bool,
    after_cr: bool,
}

impl Lines {
    /// Takes the next byte; gives the line if it ends with it.
    pub fn push(&mut self, byte: u8) -> Option<Line> {
        let (next, data) = match (self.telnet, byte) {
            (Telnet::Data, IAC) => (Telnet::AfterIac, None),
            (Telnet::Data, byte) => (Telnet::Data, Some(byte)),
            // Twice IAC is the byte 255 itself.
            (Telnet::AfterIac, IAC) => (Telnet::Data, Some(IAC)),
            (Telnet::AfterIac, SUBNEGOTIATION) | (Telnet::SubnegotiationIac, IAC) => {
                (Telnet::Subnegotiation, None)
            }
            (Telnet::AfterIac, byte) if NEGOTIATIONS.contains(&byte) => (Telnet::Option, None),
            (Telnet::AfterIac | Telnet::Option, _) | (Telnet::SubnegotiationIac, SUBNEGOTIATION_END) => {
                (Telnet::Data, None)
            }
            (Telnet::Subnegotiation, IAC) => (Telnet::SubnegotiationIac, None),
            (Telnet::Subnegotiation | Telnet::SubnegotiationIac, _) => (Telnet::Subnegotiation, None),
        };
        self.telnet = next;
        self.data(data?)
    }

    /// What stands without a line's end, when no more bytes come.
    pub fn finish(&mut self) -> Option<Line> {
        if self.pending.is_empty() && !self.too_long { None } else { Some(self.end()) }
    }

    fn data(&mut self, byte: u8) -> Option<Line> {
        let after_cr = std::mem::take(&mut self.after_cr);
        match byte {
            b'\n' | 0 if after_cr => None,
            b'\n' => Some(self.end()),
            b'\r' => {
                self.after_cr = true;
                Some(self.end())
            }
            byte => {
                if self.pending.len() < LONGEST {
                    self.pending.push(byte);
                } else {
                    self.too_long = true;
                }
                None
            }
        }
    }

    fn end(&mut self) -> Line {
        let bytes = std::mem::take(&mut self.pending);
        if std::mem::take(&mut self.too_long) { Line::TooLong } else { Line::Bytes(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(input: &[u8]) -> Vec<Line> {
        let mut lines = Lines::default();
        let mut out: Vec<Line> = input.iter().filter_map(|byte| lines.push(*byte)).collect();
        out.extend(lines.finish());
        out
    }

    fn bytes(text: &[u8]) -> Line {
        Line::Bytes(text.to_vec())
    }

    #[test]
    fn every_sort_of_line_end_is_one() {
        assert_eq!(
            lines(b"a\nb\r\nc\r\0d\re\n\nf"),
            [b"a", b"b", b"c", b"d", b"e", &b""[..], b"f"].map(bytes)
        );
    }

    #[test]
    fn what_telnet_says_for_itself_is_taken_out() {
        let input = b"\xff\xfd\x03sh\xff\xf4ow\xff\xfa\x18\x00xterm\n\xff\xff\xf0\x01\xff\xf0 \xff\xfe\x06x\xff\xff\r\n";
        assert_eq!(lines(input), [bytes(b"show x\xff")]);
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_and_the_next_one_is_not() {
        let input =
            [vec![b'x'; LONGEST], b"\n".to_vec(), vec![b'x'; LONGEST + 1], b"\nok\n".to_vec()].concat();
        assert_eq!(lines(&input), [bytes(&vec![b'x'; LONGEST]), Line::TooLong, bytes(b"ok")]);
        assert_eq!(lines(&vec![b'x'; LONGEST + 1]), [Line::TooLong]);
    }

    proptest! {
        #[test]
        fn any_bytes_give_bounded_lines(input in proptest::collection::vec(any::<u8>(), 0..9000)) {
            for line in lines(&input) {
                if let Line::Bytes(bytes) = line {
                    prop_assert!(bytes.len() <= LONGEST);
                    prop_assert!(!bytes.contains(&b'\n') && !bytes.contains(&b'\r'));
                }
            }
        }

        #[test]
        fn plain_text_comes_out_as_it_went_in(words in proptest::collection::vec("[ -~]{0,80}", 0..20)) {
            let input: String = words.iter().flat_map(|w| [w, "\r\n"]).collect();
            let expected: Vec<Line> = words.iter().map(|w| bytes(w.as_bytes())).collect();
            prop_assert_eq!(lines(input.as_bytes()), expected);
        }
    }
}
