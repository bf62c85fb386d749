//! Follows a reply by its packet heads, so that the end of a reply is known without reading rows.
//!
//! Source: "`COM_QUERY` Response", "`COM_STMT_PREPARE` Response", "Result Set Packets" in the protocol
//! documentation of both products, and MariaDB's "Progress Reporting".

use super::capabilities::{Capabilities, Status};
use super::codec::{Malformed, Reader};
use super::command::Expect;
use super::packet::{MAX_PAYLOAD, Ok};
use super::statement::PrepareOk;

/// Longest OK packet whose session state is looked at.
pub const VISIBLE_OK: usize = 4096;

/// Bytes of any other packet that decide what it is.
const HEAD: usize = 24;

/// What one packet of a reply meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The reply goes on.
    More,
    /// The server asks the client for a file; the reply goes on after the client's data.
    FileRequest,
    /// The reply is complete.
    Done(End),
}

/// How a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Success, with the status flags when the last packet carries them.
    Ok(Option<Status>),
    /// Success of `COM_STMT_PREPARE`: the statement's id.
    Prepared(u32),
    /// An ERR packet with this code.
    Error(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between replies.
    Idle,
    /// The first packet of a reply is due.
    First(Expect),
    /// That many definitions, then what comes after them.
    Definitions { left: u64, then: AfterDefinitions },
    /// Rows up to their end.
    Rows,
    /// Definitions without a count, up to their end.
    Fields,
    /// The end marker behind definitions, where EOF is not deprecated.
    DefinitionsEnd(AfterDefinitions),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterDefinitions {
    Rows,
    /// Prepared statement: that many column definitions follow the parameters.
    Columns(u64, u32),
    /// Prepared statement complete.
    Prepared(u32),
}

/// Follows one reply at a time on one link.
#[derive(Debug, Clone)]
pub struct ReplyTracker {
    capabilities: Capabilities,
    state: State,
}

impl ReplyTracker {
    /// A tracker for a link with these negotiated capabilities.
    pub fn new(capabilities: Capabilities) -> Self {
        Self { capabilities, state: State::Idle }
    }

    /// Whether no reply is being followed.
    pub fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// Whether the first packet of a result is due: the first one of a reply, or a further one.
    pub fn awaits_result(&self) -> bool {
        self.state == State::First(Expect::Results)
    }

    /// Begins a reply. `Nothing` and `Opaque` have none to follow and leave the tracker idle.
    pub fn begin(&mut self, expect: Expect) {
        self.state = match expect {
            Expect::Nothing | Expect::Opaque => State::Idle,
            Expect::Rows => State::Rows,
            Expect::Fields => State::Fields,
            first => State::First(first),
        };
    }

    /// How many payload bytes of the next packet, of length `len` with first byte `first`,
    /// [`Self::packet`] wants to see.
    pub fn needs(&self, len: usize, first: u8) -> usize {
        let may_be_ok = match self.state {
            State::First(_) => first == 0,
            State::Rows => first == 0xFE && self.deprecate_eof(),
            _ => false,
        };
        if may_be_ok && len <= VISIBLE_OK { len } else { len.min(HEAD) }
    }

    /// Takes the next packet of the reply: its length and at least [`Self::needs`] of its bytes.
    pub fn packet(&mut self, len: usize, head: &[u8]) -> Result<Step, Malformed> {
        let first = head.first().copied();
        if first == Some(0xFF) && self.state != State::Idle {
            return self.error(head);
        }
        match self.state {
            State::Idle => Err(Malformed("packet without a command")),
            State::First(Expect::Prepared) => self.prepared(head),
            State::First(Expect::Results) => self.first_of_results(len, head),
            State::First(_) => {
                let status = match first {
                    Some(0) => Ok::decode(head, self.capabilities).ok().map(|ok| ok.status),
                    _ => None,
                };
                Ok(self.done(End::Ok(status)))
            }
            State::Definitions { left, then } => {
                let left = left - 1;
                if left > 0 {
                    self.state = State::Definitions { left, then };
                } else if self.deprecate_eof() {
                    return Ok(self.after_definitions(then));
                } else {
                    self.state = State::DefinitionsEnd(then);
                }
                Ok(Step::More)
            }
            State::DefinitionsEnd(then) => {
                let status = eof_status(len, head)?;
                if then == AfterDefinitions::Rows && status.contains(Status::CURSOR_EXISTS) {
                    // An open cursor: the rows come by COM_STMT_FETCH.
                    return Ok(self.result_ended(status));
                }
                Ok(self.after_definitions(then))
            }
            State::Rows if self.ends_rows(len, first) => {
                let status = if self.deprecate_eof() {
                    Ok::decode(head, self.capabilities)?.status
                } else {
                    eof_status(len, head)?
                };
                Ok(self.result_ended(status))
            }
            State::Fields if self.ends_rows(len, first) => Ok(self.done(End::Ok(None))),
            State::Rows | State::Fields => Ok(Step::More),
        }
    }

    /// The client's file data is complete: the final OK or ERR is due.
    pub fn file_sent(&mut self) {
        self.state = State::First(Expect::Results);
    }

    fn deprecate_eof(&self) -> bool {
        self.capabilities.contains(Capabilities::DEPRECATE_EOF)
    }

    /// A row may begin with 0xFE only if its first column is longer than 16 MiB, so a packet that
    /// begins with it and is shorter ends the rows.
    fn ends_rows(&self, len: usize, first: Option<u8>) -> bool {
        first == Some(0xFE) && if self.deprecate_eof() { len < MAX_PAYLOAD } else { len < 9 }
    }

    fn error(&mut self, head: &[u8]) -> Result<Step, Malformed> {
        const PROGRESS_REPORT: u16 = 0xFFFF;
        let mut r = Reader::new(head);
        r.u8("ERR header")?;
        let code = r.u16("ERR code")?;
        if code == PROGRESS_REPORT && self.capabilities.contains(Capabilities::PROGRESS) {
            return Ok(Step::More);
        }
        Ok(self.done(End::Error(code)))
    }

    fn first_of_results(&mut self, len: usize, head: &[u8]) -> Result<Step, Malformed> {
        match head.first() {
            None => Err(Malformed("empty reply")),
            Some(0) => {
                let status = Ok::decode(head, self.capabilities)?.status;
                Ok(self.result_ended(status))
            }
            Some(0xFB) => Ok(Step::FileRequest),
            Some(_) => {
                let mut r = Reader::new(head);
                let columns = r.lenenc("column count")?;
                let mut definitions_follow = true;
                if self.capabilities.contains(Capabilities::CACHE_METADATA) {
                    definitions_follow = r.u8("metadata follows")? != 0;
                }
                if columns == 0 || len > 10 {
                    return Err(Malformed("column count"));
                }
                self.state = if definitions_follow {
                    State::Definitions { left: columns, then: AfterDefinitions::Rows }
                } else if self.deprecate_eof() {
                    State::Rows
                } else {
                    State::DefinitionsEnd(AfterDefinitions::Rows)
                };
                Ok(Step::More)
            }
        }
    }

    fn prepared(&mut self, head: &[u8]) -> Result<Step, Malformed> {
        let PrepareOk { id, columns, parameters } = PrepareOk::decode(head)?;
        let (columns, parameters) = (u64::from(columns), u64::from(parameters));
        if parameters > 0 {
            self.state =
                State::Definitions { left: parameters, then: AfterDefinitions::Columns(columns, id) };
            Ok(Step::More)
        } else {
            Ok(self.after_definitions(AfterDefinitions::Columns(columns, id)))
        }
    }

    fn after_definitions(&mut self, then: AfterDefinitions) -> Step {
        match then {
            AfterDefinitions::Rows => self.state = State::Rows,
            AfterDefinitions::Columns(0, id) | AfterDefinitions::Prepared(id) => {
                return self.done(End::Prepared(id));
            }
            AfterDefinitions::Columns(columns, id) => {
                self.state = State::Definitions { left: columns, then: AfterDefinitions::Prepared(id) };
            }
        }
        Step::More
    }

    fn result_ended(&mut self, status: Status) -> Step {
        if status.contains(Status::MORE_RESULTS) {
            self.state = State::First(Expect::Results);
            Step::More
        } else {
            self.done(End::Ok(Some(status)))
        }
    }

    fn done(&mut self, end: End) -> Step {
        self.state = State::Idle;
        Step::Done(end)
    }
}

fn eof_status(len: usize, head: &[u8]) -> Result<Status, Malformed> {
    if len >= 9 || head.first() != Some(&0xFE) {
        return Err(Malformed("EOF packet"));
    }
    let mut r = Reader::new(head);
    r.u8("EOF header")?;
    r.u16("EOF warnings")?;
    Ok(Status::from_bits_retain(r.u16("EOF status")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(capabilities: Capabilities, expect: Expect, packets: &[&[u8]]) -> Vec<Step> {
        let mut tracker = ReplyTracker::new(capabilities);
        tracker.begin(expect);
        packets.iter().map(|p| tracker.packet(p.len(), p).unwrap()).collect()
    }

    const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];
    const OK_MORE: &[u8] = &[0, 0, 0, 10, 0, 0, 0];
    const EOF: &[u8] = &[0xFE, 0, 0, 2, 0];
    const EOF_MORE: &[u8] = &[0xFE, 0, 0, 10, 0];
    const EOF_CURSOR: &[u8] = &[0xFE, 0, 0, 0x42, 0];
    const END: &[u8] = &[0xFE, 0, 0, 2, 0, 0, 0];
    const ERR: &[u8] = &[0xFF, 0x28, 0x04, b'#', b'4', b'2', b'0', b'0', b'0'];
    const DEF: &[u8] = b"\x03def rest of a definition";
    const ROW: &[u8] = b"\x011";

    #[test]
    fn a_classic_result_set_has_two_eofs() {
        let steps = run(Capabilities::empty(), Expect::Results, &[&[2], DEF, DEF, EOF, ROW, ROW, EOF]);
        assert!(steps[..6].iter().all(|s| *s == Step::More));
        assert_eq!(steps[6], Step::Done(End::Ok(Some(Status::AUTOCOMMIT))));
    }

    #[test]
    fn without_eof_an_ok_packet_ends_the_rows() {
        let steps = run(Capabilities::DEPRECATE_EOF, Expect::Results, &[&[1], DEF, ROW, END]);
        assert_eq!(steps[3], Step::Done(End::Ok(Some(Status::AUTOCOMMIT))));
        assert!(steps[..3].iter().all(|s| *s == Step::More));
    }

    #[test]
    fn an_error_may_come_in_mid_result() {
        let steps = run(Capabilities::empty(), Expect::Results, &[&[1], DEF, EOF, ROW, ERR]);
        assert_eq!(steps[4], Step::Done(End::Error(1064)));
    }

    #[test]
    fn several_results_are_one_reply() {
        let steps = run(Capabilities::empty(), Expect::Results, &[OK_MORE, &[1], DEF, EOF, EOF_MORE, OK]);
        assert!(steps[..5].iter().all(|s| *s == Step::More));
        assert_eq!(steps[5], Step::Done(End::Ok(Some(Status::AUTOCOMMIT))));
        let steps = run(Capabilities::empty(), Expect::Results, &[OK_MORE, OK_MORE, OK]);
        assert_eq!(steps, [Step::More, Step::More, Step::Done(End::Ok(Some(Status::AUTOCOMMIT)))]);
    }

    #[test]
    fn an_open_cursor_sends_no_rows() {
        let steps = run(Capabilities::empty(), Expect::Results, &[&[1], DEF, EOF_CURSOR]);
        assert!(matches!(steps[2], Step::Done(End::Ok(Some(s))) if s.contains(Status::CURSOR_EXISTS)));
        let steps = run(Capabilities::empty(), Expect::Rows, &[ROW, ROW, EOF]);
        assert!(matches!(steps[2], Step::Done(End::Ok(_))));
    }

    #[test]
    fn a_prepared_statement_lists_parameters_and_columns() {
        let head = &[0, 9, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0][..];
        let steps = run(Capabilities::empty(), Expect::Prepared, &[head, DEF, DEF, EOF, DEF, EOF]);
        assert_eq!(steps[5], Step::Done(End::Prepared(9)));
        assert!(steps[..5].iter().all(|s| *s == Step::More));
        let steps = run(Capabilities::DEPRECATE_EOF, Expect::Prepared, &[head, DEF, DEF, DEF]);
        assert_eq!(steps[3], Step::Done(End::Prepared(9)));
        let nothing = &[0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..];
        assert_eq!(run(Capabilities::empty(), Expect::Prepared, &[nothing]), [Step::Done(End::Prepared(9))]);
    }

    #[test]
    fn cached_metadata_leaves_definitions_out() {
        let caps = Capabilities::CACHE_METADATA | Capabilities::DEPRECATE_EOF;
        let steps = run(caps, Expect::Results, &[&[2, 0], ROW, END]);
        assert!(matches!(steps[2], Step::Done(End::Ok(_))));
        let steps = run(caps, Expect::Results, &[&[1, 1], DEF, ROW, END]);
        assert!(matches!(steps[3], Step::Done(End::Ok(_))));
        let steps = run(Capabilities::CACHE_METADATA, Expect::Results, &[&[2, 0], EOF, ROW, EOF]);
        assert!(matches!(steps[3], Step::Done(End::Ok(_))));
    }

    #[test]
    fn a_progress_report_is_no_error() {
        let report = &[0xFF, 0xFF, 0xFF, 1, 1, 1, 0, 0, 0][..];
        let steps = run(Capabilities::PROGRESS, Expect::Results, &[report, OK]);
        assert_eq!(steps[0], Step::More);
        assert!(matches!(steps[1], Step::Done(End::Ok(_))));
    }

    #[test]
    fn a_file_request_waits_for_the_client() {
        let mut tracker = ReplyTracker::new(Capabilities::empty());
        tracker.begin(Expect::Results);
        assert_eq!(tracker.packet(6, b"\xFBa.csv"), Ok(Step::FileRequest));
        tracker.file_sent();
        assert!(matches!(tracker.packet(OK.len(), OK), Ok(Step::Done(End::Ok(_)))));
    }

    #[test]
    fn a_huge_row_that_begins_with_fe_is_a_row() {
        let mut tracker = ReplyTracker::new(Capabilities::DEPRECATE_EOF);
        tracker.begin(Expect::Rows);
        assert_eq!(tracker.packet(MAX_PAYLOAD, &[0xFE; HEAD]), Ok(Step::More));
        assert!(matches!(tracker.packet(END.len(), END), Ok(Step::Done(_))));
    }

    #[test]
    fn an_unasked_packet_is_an_error() {
        assert!(ReplyTracker::new(Capabilities::empty()).packet(OK.len(), OK).is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics(bits: u64, packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20), kind in 0u8..6) {
            let expect = [Expect::Packet, Expect::Results, Expect::Fields, Expect::Rows, Expect::Prepared, Expect::Nothing][usize::from(kind)];
            let mut tracker = ReplyTracker::new(Capabilities::from_bits_retain(bits));
            tracker.begin(expect);
            for p in &packets {
                let need = tracker.needs(p.len(), p.first().copied().unwrap_or(0));
                prop_assert!(need <= p.len());
                if tracker.packet(p.len(), &p[..need]).is_err() { break; }
            }
        }
    }
}
