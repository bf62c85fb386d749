//! Prepared statements: the numbers and parameter types in their packets.
//!
//! Source: "`COM_STMT_PREPARE` response", "`COM_STMT_EXECUTE`" and "`COM_STMT_BULK_EXECUTE`" in the protocol
//! documentation of both products.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::capabilities::Capabilities;
use super::codec::{Malformed, Reader};
use super::command::Command;

/// Where the number of the statement stands in the payload of every command about one.
pub const ID: Range<usize> = 1..5;

/// `MariaDB` takes this number for the statement that was prepared last.
pub const LAST_PREPARED: u32 = u32::MAX;

/// The first packet of the reply to `COM_STMT_PREPARE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrepareOk {
    /// The node's number of the statement.
    pub id: u32,
    /// How many columns its result has.
    pub columns: u16,
    /// How many parameters it takes.
    pub parameters: u16,
}

impl PrepareOk {
    /// Reads the payload of the packet.
    ///
    /// # Errors
    /// When it is another packet, or cut.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(payload);
        if r.u8("prepare reply")? != 0 {
            return Err(Malformed("prepare reply"));
        }
        let id = r.u32("statement id")?;
        let columns = r.u16("column count")?;
        let parameters = r.u16("parameter count")?;
        Ok(Self { id, columns, parameters })
    }
}

/// The number of the statement that a command is about; none: it is about none, or cut.
pub fn id_of(command: Command, payload: &[u8]) -> Option<u32> {
    let id = payload.get(ID)?.first_chunk()?;
    command.is_about_statement().then(|| u32::from_le_bytes(*id))
}

/// What `COM_STMT_EXECUTE` says of the types of its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Types<'a> {
    /// It takes no parameters.
    None,
    /// They are these, encoded.
    Bound(&'a [u8]),
    /// The ones of the execution before. The flag that says so stands here in the payload.
    AsBefore(usize),
}

/// The part of `COM_STMT_EXECUTE` that the proxy reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execute<'a> {
    /// Whether the result stays at the server, in a cursor, until the client fetches it.
    pub opens_cursor: bool,
    /// The types of its parameters.
    pub types: Types<'a>,
}

impl<'a> Execute<'a> {
    /// Reads the payload of the command for a statement of so many parameters. It may be cut behind the types.
    ///
    /// # Errors
    /// When it is cut before their end, or in a form that no client library uses.
    pub fn decode(payload: &'a [u8], parameters: u16, capabilities: Capabilities) -> Result<Self, Malformed> {
        const CURSOR: u8 = 0x07;
        const COUNTS_PARAMETERS: u8 = 0x08;
        const FIXED: usize = 10;
        let named = capabilities.contains(Capabilities::QUERY_ATTRIBUTES);
        let flags = *payload.get(5).ok_or(Malformed("execute flags"))?;
        let counted = flags & COUNTS_PARAMETERS != 0;
        let opens_cursor = flags & CURSOR != 0;
        let mut r = Reader::new(payload.get(FIXED..).ok_or(Malformed("execute"))?);
        let count = match (named, counted) {
            (true, true) => r.lenenc("parameter count")?,
            (true, false) if parameters > 0 => return Err(Malformed("parameters without a count")),
            _ => u64::from(parameters),
        };
        if count == 0 {
            return Ok(Self { opens_cursor, types: Types::None });
        }
        let count = usize::try_from(count).map_err(|_| Malformed("parameter count"))?;
        r.take(count.div_ceil(8), "null bitmap")?;
        let at = payload.len() - r.rest().len();
        if r.u8("types follow")? == 0 {
            return Ok(Self { opens_cursor, types: Types::AsBefore(at) });
        }
        let start = payload.len() - r.rest().len();
        for _ in 0..count {
            r.u16("parameter type")?;
            if named {
                r.lenenc_bytes("parameter name")?;
            }
        }
        let end = payload.len() - r.rest().len();
        Ok(Self { opens_cursor, types: Types::Bound(&payload[start..end]) })
    }
}

/// The command with `types` in place of the flag at `at`, which says that they are those of the execution before.
pub fn with_types(payload: &[u8], at: usize, types: &[u8]) -> BytesMut {
    let (before, behind) = payload.split_at(at.min(payload.len()));
    let mut out = BytesMut::with_capacity(payload.len() + types.len());
    out.put_slice(before);
    out.put_u8(1);
    out.put_slice(types);
    out.put_slice(behind.get(1..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Capabilities = Capabilities::empty();
    const NAMED: Capabilities = Capabilities::QUERY_ATTRIBUTES;

    /// Head of a `COM_STMT_EXECUTE` of statement 7.
    fn head(flags: u8) -> Vec<u8> {
        vec![0x17, 7, 0, 0, 0, flags, 1, 0, 0, 0]
    }

    fn execute(flags: u8, rest: &[u8]) -> Vec<u8> {
        [&head(flags)[..], rest].concat()
    }

    #[test]
    fn types_are_found_and_put_back() {
        // Nine parameters: two bytes of bitmap.
        let types: Vec<u8> = (0..18).collect();
        let bound = execute(0, &[&[0, 0, 1][..], &types, b"values"].concat());
        let decoded = Execute::decode(&bound, 9, PLAIN).unwrap();
        assert_eq!(decoded, Execute { opens_cursor: false, types: Types::Bound(&types) });
        let again = execute(0, &[&[0, 0, 0][..], b"values"].concat());
        let Types::AsBefore(at) = Execute::decode(&again, 9, PLAIN).unwrap().types else { panic!() };
        assert_eq!(with_types(&again, at, &types), bound);
    }

    #[test]
    fn named_parameters_bring_their_own_count() {
        let types = [3, 0, 1, b'a', 8, 0, 0];
        let bound = execute(8, &[&[2, 0, 1][..], &types, b"values"].concat());
        let decoded = Execute::decode(&bound, 1, NAMED).unwrap();
        assert_eq!(decoded.types, Types::Bound(&types));
        assert_eq!(Execute::decode(&execute(9, &[0]), 0, NAMED).unwrap().types, Types::None);
        assert!(Execute::decode(&execute(9, &[0]), 0, NAMED).unwrap().opens_cursor);
        assert!(Execute::decode(&execute(0, &[0, 0]), 1, NAMED).is_err());
    }

    #[test]
    fn a_command_is_about_the_statement_that_it_names() {
        assert_eq!(id_of(Command::StmtClose, &[0x19, 1, 2, 0, 0]), Some(513));
        assert_eq!(id_of(Command::StmtClose, &[0x19, 1, 2]), None);
        assert_eq!(id_of(Command::Query, b"\x03SELECT 1"), None);
    }

    #[test]
    fn a_prepare_reply_has_its_numbers() {
        let ok = PrepareOk::decode(&[0, 9, 0, 0, 0, 2, 0, 3, 0, 0, 0, 0]).unwrap();
        assert_eq!(ok, PrepareOk { id: 9, columns: 2, parameters: 3 });
        assert!(PrepareOk::decode(b"\x03def").is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics(payload: Vec<u8>, parameters: u16, named: bool) {
            let capabilities = if named { NAMED } else { PLAIN };
            let _ = Execute::decode(&payload, parameters, capabilities);
            let _ = with_types(&payload, usize::from(parameters), &payload);
            let _ = PrepareOk::decode(&payload);
        }
    }
}
