//! Who a client is for the server, and what a Host column matches.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

/// Who a client is in the server's eyes: an address, and a name if the server resolves names.
///
/// Addresses are normalised as the server does: an IPv4-mapped or IPv4-compatible IPv6 address is the IPv4 address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostIdentity {
    ip: Option<IpAddr>,
    /// The address as the server writes it; none for a socket, and where the server's text is not known.
    text: Option<String>,
    name: HostName,
}

/// The name that a server has for a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum HostName {
    /// The server has no name for it.
    Absent,
    /// The server resolves names, and what it found for this client is not known here.
    #[default]
    Unknown,
    /// This one.
    Known(String),
}

/// Whether a row matches a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// It does.
    Yes,
    /// It does not, whatever name the server resolves.
    No,
    /// It does if the server resolves the client's address to a fitting name, which is not known here.
    Maybe,
}

impl HostIdentity {
    /// A client that the server knows by its address only.
    pub fn without_name(ip: IpAddr) -> Self {
        Self::new(ip, HostName::Absent)
    }

    /// A client whose address the server resolved to `name`.
    pub fn with_name(ip: IpAddr, name: impl Into<String>) -> Self {
        Self::new(ip, HostName::Known(name.into()))
    }

    /// A client of a server that resolves names; which name it found is not known.
    pub fn with_unknown_name(ip: IpAddr) -> Self {
        Self::new(ip, HostName::Unknown)
    }

    /// A client on the server's Unix socket.
    pub fn socket() -> Self {
        Self { ip: None, text: None, name: HostName::Known("localhost".to_owned()) }
    }

    /// A client with what the server has for a name.
    pub fn new(ip: IpAddr, name: HostName) -> Self {
        let ip = normalise(ip);
        let text = match ip {
            // The server writes the interface behind a link-local address (`fe80::1%eth0`): not known here.
            IpAddr::V6(v6) if v6.is_unicast_link_local() => None,
            IpAddr::V6(v6) => Some(v6.to_string()),
            IpAddr::V4(v4) => Some(dotted(v4)),
        };
        Self { ip: Some(ip), text, name }
    }

    /// The address, normalised; none for a socket.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    /// The name, if the server has one and it is known.
    pub fn name(&self) -> Option<&str> {
        match &self.name {
            HostName::Known(name) => Some(name),
            HostName::Absent | HostName::Unknown => None,
        }
    }

    /// Whether the server resolves a name for this client that is not known here.
    pub fn name_is_unknown(&self) -> bool {
        self.name == HostName::Unknown
    }

    /// Whether the text is known that the server matches patterns against.
    pub(super) fn is_textual(&self) -> bool {
        self.text.is_some() || self.ip.is_none()
    }

    /// What stands behind the `@` in error messages: the name if there is one, else the address.
    pub fn host_or_ip(&self) -> Cow<'_, str> {
        match (&self.name, &self.text, self.ip) {
            (HostName::Known(name), ..) => Cow::Borrowed(name),
            (_, Some(text), _) => Cow::Borrowed(text),
            (_, None, Some(ip)) => Cow::Owned(ip.to_string()),
            (_, None, None) => Cow::Borrowed("localhost"),
        }
    }

    /// Whether both are the same peer for the server.
    pub fn is_same_peer(&self, other: &Self) -> bool {
        match (self.ip, other.ip) {
            (Some(a), Some(b)) => a == b,
            (None, None) => self.name == other.name,
            _ => false,
        }
    }
}

/// As `to_string`, which takes ten times as long; every login asks for this.
fn dotted(ip: Ipv4Addr) -> String {
    let mut text = String::with_capacity("255.255.255.255".len());
    for (n, octet) in ip.octets().into_iter().enumerate() {
        if n > 0 {
            text.push('.');
        }
        for (unit, least) in [(100, 100), (10, 10), (1, 0)] {
            if octet >= least {
                text.push(char::from(b'0' + octet / unit % 10));
            }
        }
    }
    text
}

fn normalise(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let bits = v6.to_bits();
    match (bits >> 32, bits as u32) {
        (0xffff, v4) => IpAddr::V4(Ipv4Addr::from_bits(v4)),
        // IPv4-compatible; `::` and `::1` are addresses of their own.
        (0, v4) if v4 > 1 => IpAddr::V4(Ipv4Addr::from_bits(v4)),
        _ => ip,
    }
}

/// One piece of a pattern. Bytes, not characters: `_` stands for one byte in the server too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Byte(u8),
    One,
    Many,
}

/// A pattern with `%` (any bytes), `_` (one byte) and `\` (the next byte is literal; a `\` at the end is itself).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wildcards {
    pieces: Vec<Piece>,
}

impl Wildcards {
    pub(super) fn parse(pattern: &str) -> Self {
        let mut pieces = Vec::with_capacity(pattern.len());
        let mut bytes = pattern.bytes();
        while let Some(byte) = bytes.next() {
            pieces.push(match byte {
                b'%' => Piece::Many,
                b'_' => Piece::One,
                b'\\' => Piece::Byte(bytes.next().unwrap_or(b'\\')),
                literal => Piece::Byte(literal),
            });
        }
        Self { pieces }
    }

    /// Whether the pattern matches all of `text`; time is at most pattern length times text length.
    pub(super) fn matches(&self, text: &[u8], ignore_case: bool) -> bool {
        let same = |a: u8, b: u8| if ignore_case { a.eq_ignore_ascii_case(&b) } else { a == b };
        let (mut at, mut piece) = (0, 0);
        // After the last `%`: the piece behind it, and the text position that was tried for it.
        let mut retry: Option<(usize, usize)> = None;
        while at < text.len() {
            match self.pieces.get(piece) {
                Some(Piece::Many) => {
                    piece += 1;
                    retry = Some((piece, at));
                }
                Some(Piece::One) => (at, piece) = (at + 1, piece + 1),
                Some(Piece::Byte(b)) if same(*b, text[at]) => (at, piece) = (at + 1, piece + 1),
                _ => match retry {
                    Some((behind, tried)) => {
                        (at, piece) = (tried + 1, behind);
                        retry = Some((behind, tried + 1));
                    }
                    None => return false,
                },
            }
        }
        self.pieces[piece..].iter().all(|p| *p == Piece::Many)
    }

    fn is_literal(&self) -> bool {
        self.pieces.iter().all(|p| matches!(p, Piece::Byte(_)))
    }

    /// The only text that the pattern matches; none if it has wildcards.
    fn literal(&self) -> Option<Vec<u8>> {
        let byte = |piece: &Piece| if let Piece::Byte(byte) = piece { Some(*byte) } else { None };
        self.pieces.iter().map(byte).collect()
    }

    /// Whether the pattern certainly matches every text that `other` does. Not every such pair is recognised.
    pub(super) fn holds(&self, other: &Self) -> bool {
        let with_any_end = || match self.pieces.split_last() {
            Some((Piece::Many, start)) => {
                start.iter().all(|p| matches!(p, Piece::Byte(_))) && other.pieces.starts_with(start)
            }
            _ => false,
        };
        self == other || other.literal().is_some_and(|text| self.matches(&text, false)) || with_any_end()
    }

    /// Whether some text may match both patterns. Not every pair without such a text is recognised.
    pub(super) fn may_share_a_text(&self, other: &Self) -> bool {
        if let Some(text) = self.literal() {
            return other.matches(&text, false);
        }
        if let Some(text) = other.literal() {
            return self.matches(&text, false);
        }
        let pairs = self.pieces.iter().zip(&other.pieces);
        let start = pairs.take_while(|pair| !matches!(pair, (Piece::Many, _) | (_, Piece::Many)));
        start.into_iter().all(|pair| !matches!(pair, (Piece::Byte(a), Piece::Byte(b)) if a != b))
    }

    /// How general `MariaDB` holds the pattern to be (`get_magic_sort` in its sources): the number of strings of
    /// `longest` characters that it can match, roughly. 0 without wildcards; the smaller, the earlier it is tried.
    ///
    /// The count of literals before the first wildcard is *added*, so among otherwise equal patterns the one with
    /// the longer literal start is tried later.
    pub(super) fn generality(&self, longest: u32) -> u64 {
        let (mut literals, mut ones, mut runs, mut start) = (0u32, 0u32, 0u32, 0u32);
        let mut previous = None;
        for piece in &self.pieces {
            if !matches!(piece, Piece::Byte(_)) && ones == 0 && runs == 0 {
                start = literals;
            }
            match piece {
                Piece::Byte(_) => literals += 1,
                Piece::One => ones += 1,
                Piece::Many if previous == Some(Piece::Many) => {}
                Piece::Many => runs += 1,
            }
            previous = Some(*piece);
        }
        let (ones, runs) = (ones.min(31), runs.min(31));
        // The server computes this in 32 bits without a sign; a pattern longer than its column cannot be stored.
        let left = if runs > 0 { longest.wrapping_sub(literals).wrapping_sub(ones) } else { 0 };
        let (left, ones, runs, start) = (u64::from(left), u64::from(ones), u64::from(runs), u64::from(start));
        let d = u64::from(longest) + 1;
        let d1 = d.min(32);
        let (high, second, third) =
            if left > ones { (left * 2 + 1, runs, ones) } else { (ones * 2, left, runs) };
        high.wrapping_mul(d)
            .wrapping_add(second)
            .wrapping_mul(d1)
            .wrapping_add(third)
            .wrapping_mul(d)
            .wrapping_add(start)
    }

    /// Whether some name that the server may accept for a client fits the pattern.
    ///
    /// The server refuses a name that starts with digits and a dot, a host name holds none of the bytes that only
    /// addresses have, and `localhost` is the name of loopback addresses alone (any other address fails the
    /// server's forward confirmation of it).
    fn may_match_a_name(&self) -> bool {
        let in_names = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.') || b >= 0x80;
        if self.pieces.is_empty() || self.pieces.iter().any(|p| matches!(p, Piece::Byte(b) if !in_names(*b)))
        {
            return false;
        }
        if self.is_literal() && self.matches(b"localhost", true) {
            return false;
        }
        let digits =
            self.pieces.iter().take_while(|p| matches!(p, Piece::Byte(b) if b.is_ascii_digit())).count();
        digits == 0 || self.pieces.get(digits) != Some(&Piece::Byte(b'.'))
    }
}

/// How a server reads a Host column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostSyntax {
    /// `a.b.c.d/m.m.m.m` with any mask is a network; an empty column has been replaced, or is that of a role.
    MariaDb,
    /// `MySQL` before 8.0.23: the same networks; an empty column is any host.
    MySqlMasks,
    /// `MySQL` 8.0.23 and later: `a.b.c.d` is compared as a number, `/n` is a network too, and masks have no gaps.
    MySqlNetworks,
}

/// What `a.b.c.d` with or without something behind it stands for.
#[derive(Clone, Copy, Debug)]
struct Network {
    /// It is *not* masked, so with host bits set it matches nothing.
    ip: u32,
    mask: u32,
    kind: NetworkKind,
}

/// In the order in which `MySQL` 8.0.23 and later try them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NetworkKind {
    Address,
    Prefix,
    Mask,
}

/// A Host column, ready to be matched.
#[derive(Clone, Debug)]
pub(super) struct HostPattern {
    text: String,
    wildcards: Wildcards,
    network: Option<Network>,
    may_match_a_name: bool,
    /// Matches everybody: the empty column of `MySQL`.
    is_anything: bool,
    oddity: Option<Oddity>,
}

/// What makes a Host column of `MySQL` 8.0.23 and later hard to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Oddity {
    /// An address with something behind it that is no mask: a wildcard pattern that stands somewhere among the networks.
    PlaceUnknown,
    /// `/0`: the server shifts a number by its whole width, which may give any mask.
    MaskUnknown,
}

impl HostPattern {
    /// Reads a Host column; for `MariaDB`, an empty one must have been replaced by `%` (or left empty for a role).
    pub(super) fn parse(text: &str, syntax: HostSyntax) -> Self {
        let wildcards = Wildcards::parse(text);
        let may_match_a_name = wildcards.may_match_a_name();
        let (network, oddity) = match syntax {
            HostSyntax::MariaDb | HostSyntax::MySqlMasks => (masked_network(text), None),
            HostSyntax::MySqlNetworks => numeric_network(text),
        };
        let is_anything = syntax != HostSyntax::MariaDb && text.is_empty();
        Self { text: text.to_owned(), wildcards, network, may_match_a_name, is_anything, oddity }
    }

    /// Place among the hosts that `MySQL` 8.0.23 and later try first; none for a host that is not among them.
    pub(super) fn network_place(&self) -> Option<u64> {
        if self.oddity.is_some() {
            return Some(0);
        }
        let Network { ip, mask, kind } = self.network?;
        (ip != 0).then_some(((kind as u64) << 32) | u64::from(!mask))
    }

    /// Whether [`Self::network_place`] is only the first of the possible ones.
    pub(super) fn place_is_unknown(&self) -> bool {
        self.oddity.is_some()
    }

    /// Why the pattern may match, where [`Self::matches`] says so.
    pub(super) fn condition(&self) -> &'static str {
        if self.oddity == Some(Oddity::MaskUnknown) {
            "if the server takes a mask of /0 so, which it does not define"
        } else {
            "if the server resolves the client's address to a fitting name, which is not known here"
        }
    }

    /// Whether a name could match.
    pub(super) fn depends_on_name(&self) -> bool {
        self.may_match_a_name && self.oddity != Some(Oddity::MaskUnknown)
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn wildcards(&self) -> &Wildcards {
        &self.wildcards
    }

    /// Whether a client matches: `compare_hostname` in the servers' sources.
    pub(super) fn matches(&self, client: &HostIdentity) -> Match {
        if self.is_anything {
            return Match::Yes;
        }
        if let Some(IpAddr::V4(ip)) = client.ip {
            if self.oddity == Some(Oddity::MaskUnknown) {
                return Match::Maybe;
            }
            if let Some(network) = self.network {
                return if ip.to_bits() & network.mask == network.ip { Match::Yes } else { Match::No };
            }
        }
        let by_name = client.name().is_some_and(|name| self.wildcards.matches(name.as_bytes(), true));
        let by_ip = || client.text.as_ref().is_some_and(|ip| self.wildcards.matches(ip.as_bytes(), false));
        if by_name || by_ip() {
            Match::Yes
        } else if client.name_is_unknown() && self.may_match_a_name {
            Match::Maybe
        } else {
            Match::No
        }
    }

    /// An address that matches; none for a name, and for what matches no address.
    pub(super) fn specimen(&self) -> Option<IpAddr> {
        let fits = |ip: &IpAddr| self.matches(&HostIdentity::without_name(*ip)) == Match::Yes;
        if let Some(Network { ip, mask, .. }) = self.network {
            // The first host of a network rather than its own number, where there is one.
            let candidates = [ip | (!mask & 1), ip].map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
            return candidates.into_iter().find(fits);
        }
        if self.text.eq_ignore_ascii_case("localhost") {
            return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        let text = if self.is_anything { "%" } else { self.text.as_str() };
        let filled = |one: &str, many: &str| text.replace('_', one).replace('%', many);
        let candidates = ["1", "0", "1.1", "1.1.1", "10.1.1.1", ":1", "::1"].map(|many| filled("1", many));
        candidates.iter().filter_map(|text| text.parse().ok()).find(fits)
    }

    /// Whether the pattern matches the empty host name under which the server looks up roles.
    pub(super) fn matches_role(&self) -> bool {
        self.wildcards.matches(b"", true)
    }

    /// Whether the row lets the client reach the greeting: `acl_check_host` in the servers' sources, which unlike
    /// [`Self::matches`] knows no escapes in a text without wildcard characters.
    pub(super) fn admits(&self, client: &HostIdentity) -> Match {
        let is_numeric = self.network.is_some() || self.oddity.is_some();
        if self.is_anything || is_numeric || self.text.contains(['%', '_']) {
            return self.matches(client);
        }
        let is = |text: &str| self.text.eq_ignore_ascii_case(text);
        if client.name().is_some_and(is) || client.text.as_deref().is_some_and(is) {
            Match::Yes
        } else if client.name_is_unknown() && self.may_match_a_name {
            Match::Maybe
        } else {
            Match::No
        }
    }

    /// Whether the server ignores the row when it does not resolve names.
    pub(super) fn needs_resolving(&self) -> bool {
        !self.text.eq_ignore_ascii_case("localhost")
            && !self.text.contains([':', '%', '_', '/'])
            && self.text.bytes().any(|b| b != b'.' && !b.is_ascii_digit())
    }
}

/// `a.b.c.d/m.m.m.m` with a mask other than 0.0.0.0; any bit pattern is a mask.
fn masked_network(text: &str) -> Option<Network> {
    let (ip, mask) = text.split_once('/')?;
    let (ip, mask) = (dotted_quad(ip)?, dotted_quad(mask)?);
    (mask != 0).then_some(Network { ip, mask, kind: NetworkKind::Mask })
}

/// `a.b.c.d`, `a.b.c.d/m.m.m.m` with a mask of ones and then zeros, or `a.b.c.d/n`.
fn numeric_network(text: &str) -> (Option<Network>, Option<Oddity>) {
    let Some((ip, rest)) = leading_quad(text) else { return (None, None) };
    if rest.is_empty() {
        return (Some(Network { ip, mask: u32::MAX, kind: NetworkKind::Address }), None);
    }
    let Some(mask) = rest.strip_prefix('/') else {
        return (None, (ip != 0).then_some(Oddity::PlaceUnknown));
    };
    if let Some(mask) = dotted_quad(mask) {
        let is_contiguous = mask != 0 && mask.leading_ones() + mask.trailing_zeros() == 32;
        return (is_contiguous.then_some(Network { ip, mask, kind: NetworkKind::Mask }), None);
    }
    match number(mask) {
        Some(0) => (None, Some(Oddity::MaskUnknown)),
        Some(bits @ 1..=32) => {
            (Some(Network { ip, mask: u32::MAX << (32 - bits), kind: NetworkKind::Prefix }), None)
        }
        _ => (None, None),
    }
}

fn dotted_quad(text: &str) -> Option<u32> {
    leading_quad(text).filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

/// An address at the start of a text, and what comes behind it.
fn leading_quad(text: &str) -> Option<(u32, &str)> {
    let (a, rest) = text.split_once('.')?;
    let (b, rest) = rest.split_once('.')?;
    let (c, rest) = rest.split_once('.')?;
    let blank = rest.len() - rest.trim_start_matches(BLANKS).len();
    let sign = usize::from(rest[blank..].starts_with(['+', '-']));
    let digits = rest[blank + sign..].bytes().take_while(u8::is_ascii_digit).count();
    let (d, rest) = rest.split_at(blank + sign + digits);
    let mut value = 0u32;
    for part in [a, b, c, d] {
        value = (value << 8) | number(part).filter(|octet| *octet <= 255)?;
    }
    Some((value, rest))
}

const BLANKS: [char; 6] = [' ', '\t', '\n', '\r', '\x0b', '\x0c'];

/// A number as the server's `str2int` reads it: blanks, a sign and leading zeros are accepted.
fn number(text: &str) -> Option<u32> {
    let text = text.trim_start_matches(BLANKS);
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value = digits.trim_start_matches('0');
    let value: u32 = if value.is_empty() { 0 } else { value.parse().ok()? };
    (!(negative && value != 0)).then_some(value)
}

/// How specific `MySQL` holds a pattern to be (`get_sort` in its sources): 128 without wildcards, else by the place of
/// the first wildcard, 1 for `%` alone, 0 for an empty text. The greater, the earlier it is tried.
pub(super) fn wildcard_sort(text: &str) -> u64 {
    match first_wildcard(text) {
        Some(0) if text == "%" => 1,
        Some(at) => (at as u64 + 2).min(127),
        None if text.is_empty() => 0,
        None => 128,
    }
}

/// The same for `MariaDB` 10.3, for which all patterns that begin with a wildcard are alike.
pub(super) fn old_wildcard_sort(text: &str) -> u64 {
    match first_wildcard(text) {
        Some(at) => (at as u64 + 1).min(127),
        None if text.is_empty() => 0,
        None => 128,
    }
}

/// Where the first wildcard is.
fn first_wildcard(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if at + 1 < bytes.len() => at += 2,
            b'%' | b'_' => return Some(at),
            _ => at += 1,
        }
    }
    None
}
