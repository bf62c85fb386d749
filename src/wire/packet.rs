//! Packet headers, OK, ERR and EOF packets.

use bytes::{BufMut, Bytes, BytesMut};

use super::capabilities::{Capabilities, Status};
use super::codec::{Malformed, Reader, put_lenenc, put_lenenc_bytes};

/// Bytes of a packet header: three of length, one of sequence number.
pub const HEADER: usize = 4;

/// Longest payload of one packet; a longer message goes on in the next packet.
pub const MAX_PAYLOAD: usize = 0xFF_FFFF;

/// Reads a packet header: payload length and sequence number.
pub fn header(bytes: [u8; HEADER]) -> (usize, u8) {
    let len = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]) as usize;
    (len, bytes[3])
}

/// Appends `payload` with its header. For packets that Spillway itself writes, all far below
/// [`MAX_PAYLOAD`]; a longer payload is split as the protocol demands.
pub fn put_packet(out: &mut BytesMut, mut sequence: u8, payload: &[u8]) {
    let mut rest = payload;
    loop {
        let (now, later) = rest.split_at(rest.len().min(MAX_PAYLOAD));
        out.put_uint_le(now.len() as u64, 3);
        out.put_u8(sequence);
        out.put_slice(now);
        if now.len() < MAX_PAYLOAD {
            return;
        }
        sequence = sequence.wrapping_add(1);
        rest = later;
    }
}

/// The part of an OK packet that the proxy reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ok<'a> {
    /// The value that the statement gave an `AUTO_INCREMENT` column; 0: none.
    pub insert_id: u64,
    /// Server status after the statement.
    pub status: Status,
    /// Session state information, when announced and wholly visible.
    pub session_state: Option<&'a [u8]>,
}

impl<'a> Ok<'a> {
    /// Reads the payload of an OK packet (first byte 0x00, or 0xFE where EOF is deprecated).
    ///
    /// `payload` may be cut: then session state that does not fit is left out.
    pub fn decode(payload: &'a [u8], capabilities: Capabilities) -> Result<Self, Malformed> {
        let mut r = Reader::new(payload);
        r.u8("OK header")?;
        r.lenenc("OK affected rows")?;
        let insert_id = r.lenenc("OK last insert id")?;
        let status = Status::from_bits_retain(r.u16("OK status")?);
        let mut session_state = None;
        if capabilities.contains(Capabilities::SESSION_TRACK)
            && status.contains(Status::SESSION_STATE_CHANGED)
            && r.u16("OK warnings").is_ok()
            && r.lenenc_bytes("OK info").is_ok()
        {
            session_state = r.lenenc_bytes("OK session state").ok();
        }
        Ok(Self { insert_id, status, session_state })
    }

    /// Appends a complete OK packet without rows, ids or information.
    pub fn put(out: &mut BytesMut, sequence: u8, status: Status) {
        let mut payload = BytesMut::with_capacity(8);
        payload.put_u8(0);
        put_lenenc(&mut payload, 0);
        put_lenenc(&mut payload, 0);
        payload.put_u16_le(status.bits());
        payload.put_u16_le(0);
        put_packet(out, sequence, &payload);
    }
}

/// First byte of the information in an OK packet by which a `MariaDB` server vouches for its certificate.
const VOUCHING: u8 = 1;

/// The OK packet that ends a login, with this information in place of what vouches for the certificate of whoever made it;
/// none: with nothing in its place.
///
/// Session state is kept; what cannot be read is left as it is.
pub fn vouching(ok: &Bytes, information: Option<&[u8]>, capabilities: Capabilities) -> Bytes {
    replaced(ok, information, capabilities).unwrap_or_else(|Malformed(_)| ok.clone())
}

fn replaced(ok: &Bytes, information: Option<&[u8]>, capabilities: Capabilities) -> Result<Bytes, Malformed> {
    let mut r = Reader::new(ok);
    r.u8("OK header")?;
    r.lenenc("OK affected rows")?;
    r.lenenc("OK last insert id")?;
    let status = Status::from_bits_retain(r.u16("OK status")?);
    r.u16("OK warnings")?;
    let head = ok.len() - r.rest().len();
    let old = if r.is_empty() { &[][..] } else { r.lenenc_bytes("OK info")? };
    if information.is_none() && old.first() != Some(&VOUCHING) {
        return Ok(ok.clone());
    }
    let state =
        capabilities.contains(Capabilities::SESSION_TRACK) && status.contains(Status::SESSION_STATE_CHANGED);
    let mut out = BytesMut::with_capacity(ok.len() + 66);
    out.put_slice(&ok[..head]);
    let information = information.unwrap_or_default();
    if state || !information.is_empty() {
        put_lenenc_bytes(&mut out, information);
    }
    if state {
        out.put_slice(r.rest());
    }
    Ok(out.freeze())
}

/// One entry of an OK packet's session state information that the proxy uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracked<'a> {
    /// `SESSION_TRACK_SCHEMA`: the default schema is now this one; empty when there is none.
    Schema(&'a [u8]),
    /// Anything else: its type byte.
    Other(u8),
}

/// Splits session state information into its entries; stops at the first malformed one.
pub fn tracked(session_state: &[u8]) -> impl Iterator<Item = Tracked<'_>> {
    const SCHEMA: u8 = 1;
    let mut r = Reader::new(session_state);
    std::iter::from_fn(move || {
        let kind = r.u8("state type").ok()?;
        let data = r.lenenc_bytes("state data").ok()?;
        match kind {
            SCHEMA => Reader::new(data).lenenc_bytes("schema").ok().map(Tracked::Schema),
            other => Some(Tracked::Other(other)),
        }
    })
}

/// An ERR packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Err {
    /// Error number.
    pub code: u16,
    /// Five characters; `HY000` when the packet carries none.
    pub sqlstate: [u8; 5],
    /// Text, in the character set of the connection.
    pub message: Vec<u8>,
}

impl Err {
    /// Builds an error of the proxy's own.
    pub fn new(code: u16, sqlstate: &[u8; 5], message: impl Into<Vec<u8>>) -> Self {
        Self { code, sqlstate: *sqlstate, message: message.into() }
    }

    /// Reads the payload of an ERR packet (first byte 0xFF).
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(payload);
        if r.u8("ERR header")? != 0xFF {
            return Err(Malformed("ERR header"));
        }
        let code = r.u16("ERR code")?;
        let mut sqlstate = *b"HY000";
        let mut message = r.rest();
        if message.len() >= 6 && message[0] == b'#' {
            sqlstate.copy_from_slice(&message[1..6]);
            message = &message[6..];
        }
        Ok(Self { code, sqlstate, message: message.to_vec() })
    }

    /// Appends a complete ERR packet with its SQLSTATE.
    pub fn put(&self, out: &mut BytesMut, sequence: u8) {
        self.write(out, sequence, true);
    }

    /// Appends an ERR packet in place of a greeting. It carries no SQLSTATE, since no capabilities
    /// are known yet; clients show `HY000`.
    pub fn put_before_greeting(&self, out: &mut BytesMut) {
        self.write(out, 0, false);
    }

    fn write(&self, out: &mut BytesMut, sequence: u8, with_sqlstate: bool) {
        let mut payload = BytesMut::with_capacity(9 + self.message.len());
        payload.put_u8(0xFF);
        payload.put_u16_le(self.code);
        if with_sqlstate {
            payload.put_u8(b'#');
            payload.put_slice(&self.sqlstate);
        }
        // The servers cut messages at 512 bytes (MYSQL_ERRMSG_SIZE); clients rely on it.
        payload.put_slice(&self.message[..self.message.len().min(511)]);
        put_packet(out, sequence, &payload);
    }

    /// The text as far as it is UTF-8.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.message).into_owned()
    }
}

impl std::fmt::Display for Err {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.code, String::from_utf8_lossy(&self.sqlstate), self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_ok_packet_gives_status_and_schema() {
        let payload = [0, 0, 0, 2, 0x40, 0, 0, 0, 7, 1, 5, 4, b's', b'h', b'o', b'p'];
        let ok = Ok::decode(&payload, Capabilities::SESSION_TRACK).unwrap();
        assert!(ok.status.contains(Status::AUTOCOMMIT | Status::SESSION_STATE_CHANGED));
        let entries: Vec<_> = tracked(ok.session_state.unwrap()).collect();
        assert_eq!(entries, [Tracked::Schema(b"shop")]);
    }

    #[test]
    fn a_cut_ok_packet_still_gives_its_status() {
        let ok = Ok::decode(&[0, 0, 0, 2, 0x40, 0, 0, 0, 200, 1], Capabilities::SESSION_TRACK).unwrap();
        assert_eq!(ok.session_state, None);
        assert!(Ok::decode(&[0, 0, 0, 2], Capabilities::empty()).is_err());
    }

    #[test]
    fn an_error_before_the_greeting_has_no_sqlstate() {
        let mut out = BytesMut::new();
        Err::new(1130, b"HY000", "no").put_before_greeting(&mut out);
        assert_eq!(&out[..], [5, 0, 0, 0, 0xFF, 0x6A, 0x04, b'n', b'o']);
    }

    #[test]
    fn a_payload_of_the_maximum_is_followed_by_an_empty_packet() {
        let mut out = BytesMut::new();
        put_packet(&mut out, 7, &vec![1; MAX_PAYLOAD]);
        assert_eq!(out.len(), MAX_PAYLOAD + 2 * HEADER);
        assert_eq!(&out[MAX_PAYLOAD + HEADER..], [0, 0, 0, 8]);
    }

    proptest! {
        #[test]
        fn errors_survive_a_round_trip(code: u16, message in proptest::collection::vec(any::<u8>(), 0..400)) {
            let err = Err::new(code, b"42000", message);
            let mut out = BytesMut::new();
            err.put(&mut out, 3);
            prop_assert_eq!(Err::decode(&out[HEADER..]).unwrap(), err);
        }

        #[test]
        fn no_input_panics(input: Vec<u8>) {
            let _ = Err::decode(&input);
            if let Ok(ok) = Ok::decode(&input, Capabilities::all()) {
                tracked(ok.session_state.unwrap_or_default()).for_each(drop);
            }
            tracked(&input).for_each(drop);
        }
    }

    #[test]
    fn what_vouches_for_one_certificate_gives_way_to_what_vouches_for_another() {
        let none = Capabilities::REQUIRED;
        let track = none | Capabilities::SESSION_TRACK;
        let ok = |tail: &[u8], status: u8| Bytes::from([&[0, 0, 0, status, 0x40, 0, 0], tail].concat());
        let changed = |ok: &Bytes, information: Option<&[u8]>, capabilities| {
            vouching(ok, information, capabilities)[7..].to_vec()
        };
        // Nothing, something else, and the node's own.
        assert_eq!(changed(&ok(b"", 2), None, none), b"");
        assert_eq!(changed(&ok(b"\x02hi", 2), None, none), b"\x02hi");
        assert_eq!(changed(&ok(b"\x03\x01ab", 2), None, none), b"");
        assert_eq!(changed(&ok(b"\x03\x01ab", 2), Some(b"\x01xyz"), none), b"\x04\x01xyz");
        assert_eq!(changed(&ok(b"", 2), Some(b"\x01xyz"), none), b"\x04\x01xyz");
        // Session state stays behind it.
        assert_eq!(changed(&ok(b"\x03\x01ab\x01s", 2), None, track), b"\x00\x01s");
        assert_eq!(changed(&ok(b"\x00\x01s", 2), Some(b"\x01xyz"), track), b"\x04\x01xyz\x01s");
        // What cannot be read is left alone.
        assert_eq!(changed(&ok(b"\x09x", 2), Some(b"\x01xyz"), none), b"\x09x");
    }
}
