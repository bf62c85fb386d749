//! Greeting, handshake response, auth switch and `COM_CHANGE_USER`.

use bytes::{BufMut, BytesMut};

use super::capabilities::{Capabilities, Status};
use super::codec::{Malformed, Reader, put_lenenc_bytes, put_nul_bytes};

/// Length of the scramble of `mysql_native_password` and `caching_sha2_password`.
pub const SCRAMBLE: usize = 20;

/// The random bytes that a password reply is computed over. Never contains NUL or `$`.
pub type Scramble = [u8; SCRAMBLE];

/// Initial handshake packet, protocol version 10 (`Protocol::HandshakeV10`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Version text as sent, with MariaDB's `5.5.5-` prefix if it has one.
    pub version: String,
    /// Connection id.
    pub thread_id: u32,
    /// First scramble.
    pub scramble: Scramble,
    /// What the server can do.
    pub capabilities: Capabilities,
    /// Default collation id (low byte).
    pub collation: u8,
    /// Status flags.
    pub status: Status,
    /// Default authentication plugin; empty when the server has none.
    pub plugin: String,
}

impl Greeting {
    /// Reads the payload of a greeting.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(payload);
        if r.u8("protocol version")? != 10 {
            return Err(Malformed("protocol version"));
        }
        let version = String::from_utf8_lossy(r.nul_bytes("server version")?).into_owned();
        let thread_id = r.u32("thread id")?;
        let mut scramble = [0; SCRAMBLE];
        scramble[..8].copy_from_slice(r.take(8, "scramble")?);
        r.u8("filler")?;
        let low = r.u16("capabilities")?;
        let collation = r.u8("collation")?;
        let status = Status::from_bits_retain(r.u16("status")?);
        let high = r.u16("capabilities")?;
        let scramble_len = r.u8("scramble length")?;
        let reserved = r.take(10, "reserved")?;
        let mariadb = u32::from_le_bytes([reserved[6], reserved[7], reserved[8], reserved[9]]);
        let capabilities = Capabilities::from_words(u32::from(low) | u32::from(high) << 16, mariadb);
        if !capabilities.contains(Capabilities::REQUIRED) {
            return Err(Malformed("server without protocol 4.1"));
        }
        // The second part is max(13, length - 8) bytes, the last of which is NUL.
        let second = r.take(usize::from(scramble_len).saturating_sub(8).max(13), "scramble")?;
        scramble[8..].copy_from_slice(&second[..SCRAMBLE - 8]);
        let plugin = if capabilities.contains(Capabilities::PLUGIN_AUTH) {
            String::from_utf8_lossy(r.nul_or_rest()).into_owned()
        } else {
            String::new()
        };
        Ok(Self { version, thread_id, scramble, capabilities, collation, status, plugin })
    }

    /// The payload of a greeting.
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(96 + self.version.len());
        out.put_u8(10);
        put_nul_bytes(&mut out, self.version.as_bytes());
        out.put_u32_le(self.thread_id);
        out.put_slice(&self.scramble[..8]);
        out.put_u8(0);
        let low = self.capabilities.low_word();
        out.put_u16_le(low as u16);
        out.put_u8(self.collation);
        out.put_u16_le(self.status.bits());
        out.put_u16_le((low >> 16) as u16);
        out.put_u8(SCRAMBLE as u8 + 1);
        out.put_bytes(0, 6);
        out.put_u32_le(self.capabilities.mariadb_word());
        out.put_slice(&self.scramble[8..]);
        out.put_u8(0);
        if self.capabilities.contains(Capabilities::PLUGIN_AUTH) {
            put_nul_bytes(&mut out, self.plugin.as_bytes());
        }
        out
    }
}

/// `Protocol::SSLRequest`: the first part of a handshake response, sent in the clear to ask for TLS. The whole response
/// follows under TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SslRequest {
    /// What the client claims to want. Nobody vouches for it: the response under TLS says it again.
    pub capabilities: Capabilities,
    /// `max_allowed_packet` of the client.
    pub max_packet: u32,
    /// Collation id.
    pub collation: u8,
}

impl SslRequest {
    /// Length of the payload.
    pub const LENGTH: usize = 32;

    /// Reads a client's first payload. None: it is not for TLS, so it is a [`HandshakeResponse`].
    pub fn decode(payload: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut r = Reader::new(payload);
        let Ok(low) = r.u32("capabilities") else { return Ok(None) };
        if low & Capabilities::SSL.low_word() == 0 {
            return Ok(None);
        }
        if payload.len() != Self::LENGTH {
            // Credentials in the clear from a client that believes it speaks TLS.
            return Err(Malformed("request for TLS with more or less than belongs to it"));
        }
        if low & Capabilities::PROTOCOL_41.low_word() == 0 {
            return Err(Malformed("client without protocol 4.1"));
        }
        let max_packet = r.u32("max packet")?;
        let collation = r.u8("collation")?;
        let filler = r.take(23, "filler")?;
        let mariadb = u32::from_le_bytes([filler[19], filler[20], filler[21], filler[22]]);
        Ok(Some(Self { capabilities: Capabilities::from_words(low, mariadb), max_packet, collation }))
    }

    /// The payload; `CLIENT_SSL` must be among the capabilities.
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(Self::LENGTH);
        out.put_u32_le(self.capabilities.low_word());
        out.put_u32_le(self.max_packet);
        out.put_u8(self.collation);
        out.put_bytes(0, 19);
        out.put_u32_le(self.capabilities.mariadb_word());
        out
    }
}

/// Handshake response of a protocol 4.1 client (`Protocol::HandshakeResponse41`).
#[derive(Clone, PartialEq, Eq)]
pub struct HandshakeResponse {
    /// What the client wants. Compare with what was offered before use.
    pub capabilities: Capabilities,
    /// `max_allowed_packet` of the client.
    pub max_packet: u32,
    /// Collation id.
    pub collation: u8,
    /// Login name as sent.
    pub user: Vec<u8>,
    /// Reply of the authentication plugin; secret.
    pub auth: Vec<u8>,
    /// Default schema; `None` when absent or empty.
    pub database: Option<Vec<u8>>,
    /// Plugin that produced `auth`.
    pub plugin: Option<Vec<u8>>,
    /// Connection attributes, still encoded: length-encoded keys and values.
    pub attributes: Option<Vec<u8>>,
}

impl std::fmt::Debug for HandshakeResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandshakeResponse")
            .field("capabilities", &self.capabilities)
            .field("user", &String::from_utf8_lossy(&self.user))
            .field("database", &self.database.as_deref().map(String::from_utf8_lossy))
            .field("plugin", &self.plugin.as_deref().map(String::from_utf8_lossy))
            .finish_non_exhaustive()
    }
}

impl HandshakeResponse {
    /// Reads the payload. `offered` are the capabilities of the greeting: a client that claims
    /// more is read as claiming only these.
    pub fn decode(payload: &[u8], offered: Capabilities) -> Result<Self, Malformed> {
        let mut r = Reader::new(payload);
        let low = r.u32("capabilities")?;
        if low & Capabilities::PROTOCOL_41.low_word() == 0 {
            return Err(Malformed("client without protocol 4.1"));
        }
        let max_packet = r.u32("max packet")?;
        let collation = r.u8("collation")?;
        let filler = r.take(23, "filler")?;
        let mariadb = u32::from_le_bytes([filler[19], filler[20], filler[21], filler[22]]);
        let claimed = Capabilities::from_words(low, mariadb);
        let capabilities = claimed & (offered | Capabilities::MYSQL);
        let user = r.nul_bytes("user")?.to_vec();
        // Which fields follow is decided by what both sides know.
        let auth = if capabilities.contains(Capabilities::PLUGIN_AUTH_LENENC_DATA) {
            r.lenenc_bytes("auth reply")?
        } else if capabilities.contains(Capabilities::SECURE_CONNECTION) {
            let n = r.u8("auth reply")?;
            r.take(usize::from(n), "auth reply")?
        } else {
            r.nul_bytes("auth reply")?
        }
        .to_vec();
        let database = if capabilities.contains(Capabilities::CONNECT_WITH_DB) {
            Some(r.nul_or_rest().to_vec()).filter(|db| !db.is_empty())
        } else {
            None
        };
        let plugin = capabilities.contains(Capabilities::PLUGIN_AUTH).then(|| r.nul_or_rest().to_vec());
        let attributes = if capabilities.contains(Capabilities::CONNECT_ATTRS) && !r.is_empty() {
            Some(r.lenenc_bytes("connection attributes")?.to_vec())
        } else {
            None
        };
        Ok(Self { capabilities, max_packet, collation, user, auth, database, plugin, attributes })
    }

    /// The payload, as `capabilities` demand.
    pub fn encode(&self) -> BytesMut {
        let caps = self.capabilities;
        let mut out = BytesMut::with_capacity(128);
        out.put_u32_le(caps.low_word());
        out.put_u32_le(self.max_packet);
        out.put_u8(self.collation);
        out.put_bytes(0, 19);
        out.put_u32_le(caps.mariadb_word());
        put_nul_bytes(&mut out, &self.user);
        if caps.contains(Capabilities::PLUGIN_AUTH_LENENC_DATA) {
            put_lenenc_bytes(&mut out, &self.auth);
        } else {
            out.put_u8(self.auth.len() as u8);
            out.put_slice(&self.auth);
        }
        if caps.contains(Capabilities::CONNECT_WITH_DB) {
            put_nul_bytes(&mut out, self.database.as_deref().unwrap_or_default());
        }
        if caps.contains(Capabilities::PLUGIN_AUTH) {
            put_nul_bytes(&mut out, self.plugin.as_deref().unwrap_or_default());
        }
        if caps.contains(Capabilities::CONNECT_ATTRS) {
            put_lenenc_bytes(&mut out, self.attributes.as_deref().unwrap_or_default());
        }
        out
    }
}

/// `Protocol::AuthSwitchRequest`: the server asks for another plugin's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthSwitch<'a> {
    /// Plugin name; empty for the ancient `mysql_old_password` request.
    pub plugin: &'a [u8],
    /// Plugin data: a scramble, for most plugins with a NUL behind it.
    pub data: &'a [u8],
}

impl<'a> AuthSwitch<'a> {
    /// Reads the payload (first byte 0xFE).
    pub fn decode(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(payload);
        if r.u8("auth switch")? != 0xFE {
            return Err(Malformed("auth switch"));
        }
        let plugin = r.nul_or_rest();
        Ok(Self { plugin, data: r.rest() })
    }

    /// The payload for a plugin that takes a 20-byte scramble.
    pub fn encode(plugin: &str, scramble: &Scramble) -> BytesMut {
        let mut out = BytesMut::with_capacity(2 + plugin.len() + SCRAMBLE + 1);
        out.put_u8(0xFE);
        put_nul_bytes(&mut out, plugin.as_bytes());
        out.put_slice(scramble);
        out.put_u8(0);
        out
    }

    /// The data as a 20-byte scramble.
    pub fn scramble(&self) -> Result<Scramble, Malformed> {
        let bytes = self.data.get(..SCRAMBLE).ok_or(Malformed("scramble"))?;
        bytes.try_into().map_err(|_| Malformed("scramble"))
    }
}

/// `COM_CHANGE_USER` of a client.
#[derive(Clone, PartialEq, Eq)]
pub struct ChangeUser {
    /// Login name as sent.
    pub user: Vec<u8>,
    /// Reply of the authentication plugin; secret.
    pub auth: Vec<u8>,
    /// Default schema; `None` when empty.
    pub database: Option<Vec<u8>>,
    /// Collation id (low byte), when the client sends it.
    pub collation: Option<u8>,
    /// Plugin that produced `auth`.
    pub plugin: Option<Vec<u8>>,
    /// Connection attributes, still encoded.
    pub attributes: Option<Vec<u8>>,
}

impl ChangeUser {
    /// Reads the payload behind the command byte.
    pub fn decode(payload: &[u8], capabilities: Capabilities) -> Result<Self, Malformed> {
        let mut r = Reader::new(payload);
        let user = r.nul_bytes("user")?.to_vec();
        let n = r.u8("auth reply")?;
        let auth = r.take(usize::from(n), "auth reply")?.to_vec();
        let database = Some(r.nul_or_rest().to_vec()).filter(|db| !db.is_empty());
        let mut collation = None;
        let mut plugin = None;
        let mut attributes = None;
        if r.rest().len() >= 2 {
            collation = Some(r.u16("collation")? as u8);
            if capabilities.contains(Capabilities::PLUGIN_AUTH) && !r.is_empty() {
                plugin = Some(r.nul_or_rest().to_vec());
            }
            if capabilities.contains(Capabilities::CONNECT_ATTRS) && !r.is_empty() {
                attributes = Some(r.lenenc_bytes("connection attributes")?.to_vec());
            }
        }
        Ok(Self { user, auth, database, collation, plugin, attributes })
    }

    /// The whole payload, command byte included. The reply is at most 255 bytes.
    pub fn encode(&self, capabilities: Capabilities) -> BytesMut {
        const COM_CHANGE_USER: u8 = 0x11;
        let mut out = BytesMut::with_capacity(128);
        out.put_u8(COM_CHANGE_USER);
        put_nul_bytes(&mut out, &self.user);
        out.put_u8(self.auth.len() as u8);
        out.put_slice(&self.auth);
        put_nul_bytes(&mut out, self.database.as_deref().unwrap_or_default());
        out.put_u16_le(u16::from(self.collation.unwrap_or_default()));
        if capabilities.contains(Capabilities::PLUGIN_AUTH) {
            put_nul_bytes(&mut out, self.plugin.as_deref().unwrap_or_default());
        }
        if capabilities.contains(Capabilities::CONNECT_ATTRS) {
            put_lenenc_bytes(&mut out, self.attributes.as_deref().unwrap_or_default());
        }
        out
    }
}

/// Connection attributes without the one of that name; as they are where they are malformed.
///
/// Source: "Connection attributes" in `Protocol::HandshakeResponse41`: pairs of length-encoded strings.
pub fn attributes_without(attributes: &[u8], name: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::with_capacity(attributes.len());
    let mut r = Reader::new(attributes);
    while !r.is_empty() {
        let (Ok(key), Ok(value)) = (r.lenenc_bytes("attribute"), r.lenenc_bytes("attribute")) else {
            return attributes.to_vec();
        };
        if key != name {
            put_lenenc_bytes(&mut out, key);
            put_lenenc_bytes(&mut out, value);
        }
    }
    out.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn greeting() -> Greeting {
        Greeting {
            version: "5.5.5-10.11.19-MariaDB-0+deb12u1".into(),
            thread_id: 42,
            scramble: *b"abcdefghijklmnopqrst",
            capabilities: Capabilities::REQUIRED
                | Capabilities::PLUGIN_AUTH
                | Capabilities::STMT_BULK_OPERATIONS,
            collation: 45,
            status: Status::AUTOCOMMIT,
            plugin: "mysql_native_password".into(),
        }
    }

    #[test]
    fn a_greeting_survives_a_round_trip() {
        assert_eq!(Greeting::decode(&greeting().encode()), Ok(greeting()));
    }

    #[test]
    fn a_server_without_protocol_41_is_refused() {
        let old = Greeting { capabilities: Capabilities::empty(), plugin: String::new(), ..greeting() };
        assert!(Greeting::decode(&old.encode()).is_err());
    }

    #[test]
    fn what_was_not_offered_is_not_read() {
        let sent = HandshakeResponse {
            capabilities: Capabilities::REQUIRED | Capabilities::COMPRESS,
            max_packet: 1 << 24,
            collation: 45,
            user: b"app".to_vec(),
            auth: vec![7; 20],
            database: None,
            plugin: None,
            attributes: None,
        };
        let read = HandshakeResponse::decode(&sent.encode(), Capabilities::REQUIRED).unwrap();
        assert_eq!(read.capabilities, Capabilities::REQUIRED);
        assert_eq!(read.user, b"app");
    }

    #[test]
    fn debug_output_hides_the_reply() {
        let response = HandshakeResponse {
            capabilities: Capabilities::REQUIRED,
            max_packet: 0,
            collation: 0,
            user: b"app".to_vec(),
            auth: b"SECRETSECRET".to_vec(),
            database: None,
            plugin: None,
            attributes: None,
        };
        assert!(!format!("{response:?}").contains("83, 69, 67"));
        assert!(!format!("{response:?}").contains("SECRET"));
    }

    #[test]
    fn one_attribute_is_left_out_and_malformed_ones_stay() {
        let mut all = BytesMut::new();
        for text in ["_pid", "4711", "program", "x"] {
            put_lenenc_bytes(&mut all, text.as_bytes());
        }
        let rest = attributes_without(&all, b"_pid");
        assert_eq!(rest, b"\x07program\x01x");
        assert_eq!(attributes_without(&rest, b"_pid"), rest);
        assert_eq!(attributes_without(b"\x04_pid", b"_pid"), b"\x04_pid");
    }

    #[test]
    fn a_short_change_user_is_enough() {
        let read = ChangeUser::decode(b"app\0\0shop", Capabilities::all()).unwrap();
        assert_eq!((read.user.as_slice(), read.database.as_deref()), (&b"app"[..], Some(&b"shop"[..])));
        assert_eq!((read.collation, read.plugin), (None, None));
    }

    #[test]
    fn a_request_for_tls_is_exactly_its_32_bytes() {
        let plain = [&Capabilities::REQUIRED.low_word().to_le_bytes()[..], &[0; 28]].concat();
        assert_eq!(SslRequest::decode(&plain), Ok(None));
        let wants = Capabilities::REQUIRED | Capabilities::SSL;
        let request = SslRequest { capabilities: wants, max_packet: 1 << 24, collation: 45 };
        let encoded = request.encode();
        assert_eq!(SslRequest::decode(&encoded), Ok(Some(request)));
        assert!(SslRequest::decode(&encoded[..31]).is_err());
        assert!(SslRequest::decode(&[&encoded[..], b"app\0"].concat()).is_err());
        let old = SslRequest { capabilities: Capabilities::SSL, ..request };
        assert!(SslRequest::decode(&old.encode()).is_err());
        assert!(HandshakeResponse::decode(&encoded, wants).is_err(), "it is no response");
    }

    proptest! {
        #[test]
        fn requests_for_tls_survive_a_round_trip(bits: u64, max_packet: u32, collation: u8) {
            let wanted = Capabilities::from_bits_retain(bits) | Capabilities::REQUIRED | Capabilities::SSL;
            let capabilities = Capabilities::from_words(wanted.low_word(), wanted.mariadb_word());
            let sent = SslRequest { capabilities, max_packet, collation };
            prop_assert_eq!(SslRequest::decode(&sent.encode()), Ok(Some(sent)));
        }

        #[test]
        fn responses_survive_a_round_trip(
            user in "[^\0]{0,80}",
            auth in proptest::collection::vec(any::<u8>(), 0..250),
            database in proptest::option::of("[^\0]{1,64}"),
            plugin in proptest::option::of("[a-z_]{1,30}"),
            attributes in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..400)),
            lenenc: bool,
        ) {
            let mut capabilities = Capabilities::REQUIRED;
            capabilities.set(Capabilities::PLUGIN_AUTH_LENENC_DATA, lenenc);
            capabilities.set(Capabilities::CONNECT_WITH_DB, database.is_some());
            capabilities.set(Capabilities::PLUGIN_AUTH, plugin.is_some());
            capabilities.set(Capabilities::CONNECT_ATTRS, attributes.is_some());
            let sent = HandshakeResponse {
                capabilities,
                max_packet: 1,
                collation: 33,
                user: user.into_bytes(),
                auth,
                database: database.map(String::into_bytes),
                plugin: plugin.map(String::into_bytes),
                attributes,
            };
            prop_assert_eq!(HandshakeResponse::decode(&sent.encode(), Capabilities::all()), Ok(sent));
        }

        #[test]
        fn changes_of_user_survive_a_round_trip(
            user in "[^\0]{0,80}",
            auth in proptest::collection::vec(any::<u8>(), 0..250),
            database in proptest::option::of("[^\0]{1,64}"),
            plugin in "[a-z_]{1,30}",
            attributes in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let sent = ChangeUser {
                user: user.into_bytes(),
                auth,
                database: database.map(String::into_bytes),
                collation: Some(45),
                plugin: Some(plugin.into_bytes()),
                attributes: Some(attributes),
            };
            let capabilities = Capabilities::all();
            let written = sent.encode(capabilities);
            prop_assert!(ChangeUser::decode(&written[1..], capabilities).is_ok_and(|read| read == sent));
        }

        #[test]
        fn no_input_panics(input: Vec<u8>) {
            let _ = attributes_without(&input, b"_pid");
            let _ = Greeting::decode(&input);
            let _ = SslRequest::decode(&input);
            let _ = HandshakeResponse::decode(&input, Capabilities::all());
            let _ = ChangeUser::decode(&input, Capabilities::all());
            if let Ok(switch) = AuthSwitch::decode(&input) { let _ = switch.scramble(); }
        }
    }
}
