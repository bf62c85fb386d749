//! A client that speaks the protocol byte by byte: written here, apart from Spillway's own code, so that a
//! misunderstanding there does not cancel out here.

use crate::harness::Outcome;
use crate::proof::{self, Plugin, Way};
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Barrier};
use std::time::Duration;

/// Capability bits of the protocol, only those that tests name.
pub(crate) mod capability {
    pub(crate) const LONG_PASSWORD: u32 = 1;
    pub(crate) const FOUND_ROWS: u32 = 1 << 1;
    pub(crate) const LONG_FLAG: u32 = 1 << 2;
    pub(crate) const CONNECT_WITH_DB: u32 = 1 << 3;
    pub(crate) const LOCAL_FILES: u32 = 1 << 7;
    pub(crate) const PROTOCOL_41: u32 = 1 << 9;
    pub(crate) const SSL: u32 = 1 << 11;
    pub(crate) const TRANSACTIONS: u32 = 1 << 13;
    pub(crate) const SECURE_CONNECTION: u32 = 1 << 15;
    pub(crate) const MULTI_STATEMENTS: u32 = 1 << 16;
    pub(crate) const MULTI_RESULTS: u32 = 1 << 17;
    pub(crate) const PS_MULTI_RESULTS: u32 = 1 << 18;
    pub(crate) const PLUGIN_AUTH: u32 = 1 << 19;
    pub(crate) const CAN_HANDLE_EXPIRED_PASSWORDS: u32 = 1 << 22;
    pub(crate) const SESSION_TRACK: u32 = 1 << 23;
    pub(crate) const DEPRECATE_EOF: u32 = 1 << 24;

    /// What an ordinary client asks for.
    pub(crate) const USUAL: u32 = LONG_PASSWORD
        | LONG_FLAG
        | PROTOCOL_41
        | TRANSACTIONS
        | SECURE_CONNECTION
        | MULTI_STATEMENTS
        | MULTI_RESULTS
        | PS_MULTI_RESULTS
        | PLUGIN_AUTH
        | LOCAL_FILES;
}

const MAX_PAYLOAD: usize = 0xff_ff_ff;
const MORE_RESULTS: u16 = 0x0008;

/// An ERR packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    /// Absent in an error that comes instead of the greeting.
    pub(crate) state: Option<String>,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn parse(packet: &[u8]) -> Outcome<Self> {
        let [0xff, low, high, rest @ ..] = packet else { return Err(format!("no ERR packet: {packet:?}")) };
        let text = String::from_utf8_lossy(rest).into_owned();
        let (state, message) = match text.strip_prefix('#') {
            Some(tail) if tail.len() >= 5 => (Some(tail[..5].to_owned()), tail[5..].to_owned()),
            _ => (None, text),
        };
        Ok(Self { code: u16::from_le_bytes([*low, *high]), state, message })
    }
}

/// Where the reply to a command ends.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    /// OK, ERR, or result sets; more than one if the status says so.
    Results,
    /// One packet, whatever it is.
    Packet,
    /// Column definitions up to EOF, or ERR.
    FieldList,
    /// The answer to `COM_STMT_PREPARE`.
    Prepare,
    /// Rows up to EOF, or ERR: the answer to `COM_STMT_FETCH`.
    Rows,
}

/// What came back for a login.
pub(crate) type Login = Result<Raw, Refusal>;

/// A connection that is logged in.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    /// TLS over the socket, if it was asked for.
    pub(crate) tls: Option<Box<ClientConnection>>,
    on_socket: bool,
    meet: Option<Arc<Barrier>>,
    /// The number that the next packet has.
    pub(crate) sequence: u8,
    capabilities: u32,
    /// What the last answer was over.
    pub(crate) scramble: Vec<u8>,
    /// The OK packet that ended the login or the change of user.
    pub(crate) ok: Vec<u8>,
    /// The plugin that the last answer was for.
    plugin: Plugin,
    /// How the last login or change of user ended well.
    pub(crate) way: Way,
    /// The plugin that the greeting names.
    pub(crate) default_plugin: String,
    /// The server's version text.
    pub(crate) version: String,
    /// Capability bits of the greeting.
    pub(crate) offered: u32,
    /// The upper 32 bits of `MariaDB`'s extended capabilities.
    pub(crate) offered_extended: u32,
    /// Character set of the greeting.
    pub(crate) charset: u8,
    /// The session's number in the greeting.
    pub(crate) number: u32,
    /// How many physical packets the last logical packet came in.
    pub(crate) pieces: usize,
}

/// What a client sends to log in.
#[derive(Clone)]
pub(crate) struct Credentials<'a> {
    pub(crate) user: &'a str,
    pub(crate) password: &'a str,
    pub(crate) schema: Option<&'a str>,
    pub(crate) capabilities: u32,
    /// The client's own address; 127.0.0.1 unless a test is about addresses.
    pub(crate) source: Ipv4Addr,
    /// TLS, if the client wants it.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// The plugin that the first answer is for; the greeting's, if it is one of ours, unless a test is about that.
    pub(crate) plugin: Option<Plugin>,
    /// How many bytes the first answer is too short.
    pub(crate) cut: usize,
    /// The connection is a Unix socket: a password goes over it as over TLS.
    pub(crate) on_socket: bool,
    /// Where clients that are asked by another plugin wait for each other before they answer.
    pub(crate) meet: Option<Arc<Barrier>>,
}

impl<'a> Credentials<'a> {
    pub(crate) fn new(user: &'a str, password: &'a str, schema: Option<&'a str>) -> Self {
        Self {
            user,
            password,
            schema,
            capabilities: capability::USUAL,
            source: Ipv4Addr::LOCALHOST,
            tls: None,
            plugin: None,
            cut: 0,
            on_socket: false,
            meet: None,
        }
    }

    pub(crate) fn with(mut self, capabilities: u32) -> Self {
        self.capabilities |= capabilities;
        self
    }

    pub(crate) fn without(mut self, capabilities: u32) -> Self {
        self.capabilities &= !capabilities;
        self
    }

    pub(crate) fn from(mut self, source: Ipv4Addr) -> Self {
        self.source = source;
        self
    }
}

/// Connects, without a word.
pub(crate) fn connect(port: u16, source: Ipv4Addr) -> Outcome<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(|e| e.to_string())?;
    // A port that is bound is not free again for a minute after its connection; without that the kernel can do better.
    if source != Ipv4Addr::LOCALHOST {
        socket.bind(&SocketAddr::from((source, 0)).into()).map_err(|e| format!("bind: {e}"))?;
    }
    socket
        .connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())
        .map_err(|e| format!("connect: {e}"))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_mins(1))).map_err(|e| e.to_string())?;
    stream.set_write_timeout(Some(Duration::from_mins(1))).map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    Ok(stream)
}

/// The 32 bytes that begin a handshake response, and are all of a request for TLS.
pub(crate) fn response_head(capabilities: u32) -> Vec<u8> {
    let mut head = Vec::with_capacity(32);
    head.extend_from_slice(&capabilities.to_le_bytes());
    head.extend_from_slice(&(1_u32 << 30).to_le_bytes());
    head.push(45);
    head.extend_from_slice(&[0; 23]);
    head
}

/// Connects and logs in; a refusal is the server's (or Spillway's) ERR packet.
pub(crate) fn login(port: u16, credentials: &Credentials<'_>) -> Outcome<Login> {
    login_over(connect(port, credentials.source)?, credentials)
}

/// Logs in over a connection on which nothing of MySQL's protocol was said yet.
pub(crate) fn login_over(stream: TcpStream, credentials: &Credentials<'_>) -> Outcome<Login> {
    let mut raw = Raw {
        stream,
        tls: None,
        on_socket: credentials.on_socket,
        meet: credentials.meet.clone(),
        sequence: 0,
        capabilities: 0,
        scramble: Vec::new(),
        ok: Vec::new(),
        plugin: Plugin::Native,
        way: Way::Answer,
        default_plugin: String::new(),
        version: String::new(),
        offered: 0,
        offered_extended: 0,
        charset: 0,
        number: 0,
        pieces: 0,
    };
    let greeting = raw.packet()?;
    if greeting.first() == Some(&0xff) {
        return Refusal::parse(&greeting).map(Err);
    }
    raw.read_greeting(&greeting)?;
    raw.plugin = credentials.plugin.unwrap_or(raw.plugin);
    raw.capabilities = credentials.capabilities & raw.offered;
    if credentials.schema.is_some() {
        raw.capabilities |= capability::CONNECT_WITH_DB;
    }
    if let Some(tls) = &credentials.tls {
        if raw.offered & capability::SSL == 0 {
            return Err("TLS is not offered".to_owned());
        }
        raw.capabilities |= capability::SSL;
        raw.send(&response_head(raw.capabilities))?;
        let name = "localhost".try_into().map_err(|e| format!("{e}"))?;
        let connection = ClientConnection::new(Arc::clone(tls), name).map_err(|e| e.to_string())?;
        raw.tls = Some(Box::new(connection));
    }
    let mut response = response_head(raw.capabilities);
    response.extend_from_slice(credentials.user.as_bytes());
    response.push(0);
    let mut proof = raw.plugin.answer(credentials.password, &raw.scramble);
    proof.truncate(proof.len().saturating_sub(credentials.cut));
    response.push(proof.len() as u8);
    response.extend_from_slice(&proof);
    if let Some(schema) = credentials.schema {
        response.extend_from_slice(schema.as_bytes());
        response.push(0);
    }
    if raw.capabilities & capability::PLUGIN_AUTH != 0 {
        response.extend_from_slice(raw.plugin.name().as_bytes());
        response.push(0);
    }
    raw.send(&response)?;
    Ok(raw.finish_login(credentials.password)?.map(|()| raw))
}

impl Raw {
    fn read_greeting(&mut self, greeting: &[u8]) -> Outcome<()> {
        let bad = || format!("not a greeting: {greeting:?}");
        let [10, rest @ ..] = greeting else { return Err(bad()) };
        let end = rest.iter().position(|&byte| byte == 0).ok_or_else(bad)?;
        self.version = String::from_utf8_lossy(&rest[..end]).into_owned();
        let rest = &rest[end + 1..];
        if rest.len() < 44 {
            return Err(bad());
        }
        self.scramble = [&rest[4..12], &rest[31..43]].concat();
        self.charset = rest[15];
        self.number = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
        self.offered = u32::from_le_bytes([rest[13], rest[14], rest[18], rest[19]]);
        let name = rest.get(44..).unwrap_or_default().split(|&byte| byte == 0).next().unwrap_or_default();
        self.default_plugin = String::from_utf8_lossy(name).into_owned();
        self.plugin = Plugin::named(name).unwrap_or(Plugin::Native);
        self.offered_extended = u32::from_le_bytes([rest[27], rest[28], rest[29], rest[30]]);
        Ok(())
    }

    /// Answers whatever the server asks for, and reads the verdict.
    fn finish_login(&mut self, password: &str) -> Outcome<Result<(), Refusal>> {
        self.way = Way::Answer;
        loop {
            let packet = self.packet()?;
            match packet.first() {
                Some(0x00) => {
                    self.ok = packet;
                    return Ok(Ok(()));
                }
                Some(0xff) => return Refusal::parse(&packet).map(Err),
                Some(0xfe) => {
                    let bad = || format!("switch to another plugin: {packet:?}");
                    let end = packet.iter().position(|&byte| byte == 0).ok_or_else(bad)?;
                    self.plugin = Plugin::named(&packet[1..end]).ok_or_else(bad)?;
                    let length =
                        if matches!(self.plugin, Plugin::Ed25519 | Plugin::Parsec) { 32 } else { 20 };
                    let scramble = packet.get(end + 1..end + 1 + length);
                    self.scramble = scramble.ok_or("a short scramble")?.to_vec();
                    if let Some(others) = self.meet.take() {
                        others.wait();
                    }
                    if self.plugin == Plugin::Sha256 && (self.tls.is_some() || self.on_socket) {
                        self.way = Way::Cleartext;
                        self.send(&[password.as_bytes(), &[0]].concat())?;
                    } else {
                        let proof = self.plugin.answer(password, &self.scramble);
                        self.send(&proof)?;
                    }
                }
                Some(0x01) if self.plugin == Plugin::Sha256 => {
                    self.way = Way::PublicKey;
                    let sealed = proof::under_key(password, &self.scramble, &packet[1..])?;
                    self.send(&sealed)?;
                }
                Some(0x01) if self.plugin == Plugin::Parsec => {
                    let signed = proof::salted(password, &self.scramble, &packet[1..])?;
                    self.send(&signed)?;
                }
                Some(0x01) if self.plugin == Plugin::CachingSha2 => match packet[1..] {
                    [3] => self.way = Way::Cache,
                    [4] => self.send_password(password)?,
                    _ => return Err(format!("neither of the answers about a cache: {packet:?}")),
                },
                _ => return Err(format!("unexpected packet in the login: {packet:?}")),
            }
        }
    }

    /// The full exchange of `caching_sha2_password`: the server has not seen the password since it started.
    fn send_password(&mut self, password: &str) -> Outcome<()> {
        if self.tls.is_some() || self.on_socket {
            self.way = Way::Cleartext;
            return self.send(&[password.as_bytes(), &[0]].concat());
        }
        self.way = Way::PublicKey;
        self.send(&[2])?;
        let packet = self.packet()?;
        let pem = packet.strip_prefix(&[1]).ok_or_else(|| format!("no public key: {packet:?}"))?;
        let sealed = proof::under_key(password, &self.scramble, pem)?;
        self.send(&sealed)
    }

    /// Sends one logical packet in as many physical ones as it takes.
    fn send(&mut self, payload: &[u8]) -> Outcome<()> {
        let bytes = frame(payload, &mut self.sequence);
        self.write(&bytes)
    }

    /// Starts a command: numbering begins at 0.
    pub(crate) fn command(&mut self, payload: &[u8]) -> Outcome<()> {
        self.sequence = 0;
        self.send(payload)
    }

    /// The next packet starts the reply to a pipelined command: its number is 1.
    pub(crate) fn expect_reply(&mut self) {
        self.sequence = 1;
    }

    /// Reads one physical packet whatever its number: for what comes without having been asked for.
    pub(crate) fn unasked_packet(&mut self) -> Outcome<Vec<u8>> {
        let mut header = [0; 4];
        self.read(&mut header)?;
        let size = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
        let mut payload = vec![0; size];
        self.read(&mut payload)?;
        Ok(payload)
    }

    /// Sends bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Outcome<()> {
        let sent = match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).write_all(bytes),
            None => self.stream.write_all(bytes),
        };
        sent.map_err(|e| format!("send: {e}"))
    }

    fn read(&mut self, bytes: &mut [u8]) -> Outcome<()> {
        let read = match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).read_exact(bytes),
            None => self.stream.read_exact(bytes),
        };
        read.map_err(|e| format!("read: {e}"))
    }

    /// Sends data that continues the current exchange, such as a file for LOAD DATA LOCAL.
    pub(crate) fn continue_with(&mut self, payload: &[u8]) -> Outcome<()> {
        self.send(payload)
    }

    /// Reads one logical packet; physical packets must be numbered without a gap within one reply.
    pub(crate) fn packet(&mut self) -> Outcome<Vec<u8>> {
        let mut payload = Vec::new();
        self.pieces = 0;
        loop {
            let mut header = [0; 4];
            self.read(&mut header)?;
            let size = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
            if header[3] != self.sequence {
                return Err(format!("packet number {} where {} was due", header[3], self.sequence));
            }
            self.sequence = self.sequence.wrapping_add(1);
            let start = payload.len();
            payload.resize(start + size, 0);
            self.read(&mut payload[start..])?;
            self.pieces += 1;
            if size < MAX_PAYLOAD {
                return Ok(payload);
            }
        }
    }

    /// Reads the whole reply to one command: every packet as it came.
    pub(crate) fn reply(&mut self, shape: Shape) -> Outcome<Vec<Vec<u8>>> {
        let mut packets = Vec::new();
        match shape {
            Shape::Packet => packets.push(self.packet()?),
            Shape::FieldList | Shape::Rows => {
                self.until_end(&mut packets)?;
            }
            Shape::Prepare => {
                let first = self.packet()?;
                let counts = (first.first() == Some(&0) && first.len() >= 9).then(|| {
                    [u16::from_le_bytes([first[7], first[8]]), u16::from_le_bytes([first[5], first[6]])]
                });
                packets.push(first);
                for count in counts.into_iter().flatten().filter(|&count| count > 0) {
                    for _ in 0..count {
                        packets.push(self.packet()?);
                    }
                    if self.capabilities & capability::DEPRECATE_EOF == 0 {
                        packets.push(self.packet()?);
                    }
                }
            }
            Shape::Results => while self.result(&mut packets)? {},
        }
        Ok(packets)
    }

    /// Sends a command and reads its reply.
    pub(crate) fn exchange(&mut self, payload: &[u8], shape: Shape) -> Outcome<Vec<Vec<u8>>> {
        self.command(payload)?;
        self.reply(shape)
    }

    /// `COM_QUERY` and its reply.
    pub(crate) fn query(&mut self, sql: &str) -> Outcome<Vec<Vec<u8>>> {
        self.exchange(&query(sql), Shape::Results)
    }

    /// One result; true if the status announces another.
    fn result(&mut self, packets: &mut Vec<Vec<u8>>) -> Outcome<bool> {
        let first = self.packet()?;
        let kind = first.first().copied();
        packets.push(first);
        match kind {
            Some(0x00) => Ok(ok_status(packets.last().ok_or("no packet")?)? & MORE_RESULTS != 0),
            Some(0xff | 0xfb) => Ok(false),
            Some(columns) => {
                for _ in 0..columns {
                    packets.push(self.packet()?);
                }
                let deprecated = self.capabilities & capability::DEPRECATE_EOF != 0;
                if !deprecated {
                    let eof = self.packet()?;
                    // A cursor was opened: the rows wait for COM_STMT_FETCH.
                    let cursor = eof.len() >= 5 && u16::from_le_bytes([eof[3], eof[4]]) & 0x40 != 0;
                    packets.push(eof);
                    if cursor {
                        return Ok(false);
                    }
                }
                let end = self.until_end(packets)?;
                Ok(end & MORE_RESULTS != 0)
            }
            None => Err("an empty packet where a result begins".to_owned()),
        }
    }

    /// Packets up to EOF (or the OK that stands for it) or ERR; returns the status.
    fn until_end(&mut self, packets: &mut Vec<Vec<u8>>) -> Outcome<u16> {
        let deprecated = self.capabilities & capability::DEPRECATE_EOF != 0;
        loop {
            let packet = self.packet()?;
            let status = match packet.first() {
                Some(0xff) => Some(0),
                Some(0xfe) if deprecated && packet.len() < MAX_PAYLOAD => Some(ok_status(&packet)?),
                Some(0xfe) if packet.len() < 9 => {
                    Some(packet.get(3..5).map_or(0, |status| u16::from_le_bytes([status[0], status[1]])))
                }
                _ => None,
            };
            packets.push(packet);
            if let Some(status) = status {
                return Ok(status);
            }
        }
    }

    /// `COM_CHANGE_USER` and what came of it.
    pub(crate) fn change_user(
        &mut self,
        user: &str,
        password: &str,
        schema: &str,
    ) -> Outcome<Result<(), Refusal>> {
        let mut payload = vec![0x11];
        payload.extend_from_slice(user.as_bytes());
        payload.push(0);
        let proof = self.plugin.answer(password, &self.scramble);
        payload.push(proof.len() as u8);
        payload.extend_from_slice(&proof);
        payload.extend_from_slice(schema.as_bytes());
        payload.push(0);
        payload.extend_from_slice(&45_u16.to_le_bytes());
        payload.extend_from_slice(self.plugin.name().as_bytes());
        payload.push(0);
        self.command(&payload)?;
        self.finish_login(password)
    }

    /// Whether the other side closes the connection, rather than answer another command.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.exchange(&[0x0e], Shape::Packet).is_err()
    }
}

/// The status flags of an OK packet.
fn ok_status(packet: &[u8]) -> Outcome<u16> {
    let rest = packet.get(1..).ok_or("an empty OK packet")?;
    let rest = skip_number(skip_number(rest)?)?;
    let status = rest.get(..2).ok_or("a short OK packet")?;
    Ok(u16::from_le_bytes([status[0], status[1]]))
}

fn skip_number(bytes: &[u8]) -> Outcome<&[u8]> {
    let size = match bytes.first().ok_or("a short packet")? {
        0xfc => 3,
        0xfd => 4,
        0xfe => 9,
        _ => 1,
    };
    bytes.get(size..).ok_or_else(|| "a short packet".to_owned())
}

/// The physical packets of one logical packet, and the number after the last one.
pub(crate) fn frame(payload: &[u8], sequence: &mut u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 8);
    let mut rest = payload;
    loop {
        let (piece, tail) = rest.split_at(rest.len().min(MAX_PAYLOAD));
        bytes.extend_from_slice(&(piece.len() as u32).to_le_bytes()[..3]);
        bytes.push(*sequence);
        *sequence = sequence.wrapping_add(1);
        bytes.extend_from_slice(piece);
        if piece.len() < MAX_PAYLOAD {
            return bytes;
        }
        rest = tail;
    }
}

/// The payload of `COM_QUERY`.
pub(crate) fn query(sql: &str) -> Vec<u8> {
    [&[0x03], sql.as_bytes()].concat()
}

/// A length-encoded string at the start of `bytes`, for the values of text rows.
pub(crate) fn text_value(bytes: &[u8]) -> Outcome<String> {
    let number = |from: usize, size: usize| {
        bytes.get(from..from + size).map(|digits| {
            digits.iter().rev().fold(0_usize, |value, &digit| (value << 8) | usize::from(digit))
        })
    };
    let (start, size) = match bytes.first().ok_or("an empty row")? {
        0xfc => (3, number(1, 2)),
        0xfd => (4, number(1, 3)),
        0xfe => (9, number(1, 8)),
        &short => (1, Some(usize::from(short))),
    };
    let value = size.and_then(|size| bytes.get(start..start + size)).ok_or("a short row")?;
    Ok(String::from_utf8_lossy(value).into_owned())
}

/// The first value of the first row of a reply without `DEPRECATE_EOF`: columns, EOF, rows, EOF.
pub(crate) fn first_value(reply: &[Vec<u8>]) -> Outcome<String> {
    match reply.first().and_then(|packet| packet.first()) {
        Some(0xff) => Err(format!("{:?}", Refusal::parse(&reply[0])?)),
        Some(&columns) if columns > 0 => {
            let row = reply.get(usize::from(columns) + 2).ok_or("no row")?;
            text_value(row)
        }
        _ => Err("no result set".to_owned()),
    }
}
