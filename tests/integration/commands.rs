//! Commands of the protocol that client programs rarely send, packet by packet, and the limits of packets.

use crate::harness::Outcome;
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials, Raw, Shape, capability, first_value, frame, query};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;
use sha1::{Digest, Sha1};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("commands::result_sets", result_sets),
        trial("commands::result_sets_without_eof", result_sets_without_eof),
        trial("commands::small_commands", small_commands),
        trial("commands::unknown", unknown),
        trial("commands::statistics", statistics),
        trial("commands::field_list", field_list),
        trial("commands::set_option", set_option),
        trial("commands::reset_connection", reset_connection),
        trial("commands::cursors", cursors),
        trial("commands::long_data", long_data),
        trial("commands::session_track", session_track),
        trial("commands::error_in_mid_result", error_in_mid_result),
        trial("commands::load_data_packets", load_data_packets),
        trial("commands::pipelined_in_one_segment", pipelined_in_one_segment),
        trial("commands::pipelined_byte_by_byte", pipelined_byte_by_byte),
        trial("commands::pipelined_mixed", pipelined_mixed),
        trial("commands::packet_limits_to_server", packet_limits_to_server),
        trial("commands::packet_limits_to_client", packet_limits_to_client),
    ]
}

fn session_with(port: u16, capabilities: u32) -> Outcome<Raw> {
    let credentials = Credentials::new("app", PASSWORD, Some("lab")).with(capabilities);
    raw::login(port, &credentials)?.map_err(|refusal| format!("{refusal:?}"))
}

fn session(port: u16) -> Outcome<Raw> {
    session_with(port, 0)
}

/// Runs `action` in a fresh session each way; every packet of every reply must be the same, byte by byte.
fn packets_agree(
    what: &str,
    capabilities: u32,
    mut action: impl FnMut(&mut Raw) -> Outcome<Vec<Vec<u8>>>,
) -> Outcome<Vec<Vec<u8>>> {
    let ways = lab::solo()?.ways;
    let direct = action(&mut session_with(ways.direct, capabilities)?)
        .map_err(|reason| format!("{what}, directly: {reason}"))?;
    let proxied = action(&mut session_with(ways.proxied, capabilities)?)
        .map_err(|reason| format!("{what}, through spillway: {reason}"))?;
    for (number, packets) in direct.iter().zip(&proxied).enumerate() {
        same!(packets.0, packets.1, "{what}: packet {number} differs (left: directly)");
    }
    same!(direct.len(), proxied.len(), "{what}: number of packets (left: directly)");
    Ok(direct)
}

const QUERIES: [&str; 9] = [
    "SELECT 1",
    "SELECT NULL, '', 'text', 1.5, NOW() IS NULL, REPEAT('x', 300), REPEAT('y', 70000)",
    "SELECT seq FROM seq_1_to_1000",
    "SELECT 1 WHERE FALSE",
    "SET @a = 1",
    "SELECT 1; SELECT 2; SET @a = 3; SELECT @a",
    "SELECT 1; SELECT wrong; SELECT 3",
    "wrong",
    "",
];

fn result_sets() -> Verdict {
    for sql in QUERIES {
        packets_agree(sql, 0, |session| session.query(sql))?;
    }
    Ok(())
}

fn result_sets_without_eof() -> Verdict {
    for sql in QUERIES {
        packets_agree(sql, capability::DEPRECATE_EOF, |session| session.query(sql))?;
    }
    Ok(())
}

fn small_commands() -> Verdict {
    packets_agree("PING, INIT_DB, DEBUG, PROCESS_INFO, ERR", 0, |session| {
        let mut packets = session.exchange(&[0x0e], Shape::Packet)?;
        packets.extend(session.exchange(b"\x02lab2", Shape::Packet)?);
        packets.extend(session.query("SELECT DATABASE()")?);
        packets.extend(session.exchange(b"\x02closed", Shape::Packet)?);
        packets.extend(session.exchange(b"\x02no_such_schema", Shape::Packet)?);
        packets.extend(session.query("SELECT DATABASE()")?);
        packets.extend(session.exchange(&[0x0d], Shape::Packet)?);
        // COM_STMT_EXECUTE, _RESET and _FETCH of a statement that does not exist; COM_STMT_CLOSE has no answer.
        packets.extend(session.exchange(&[0x17, 99, 0, 0, 0, 0, 1, 0, 0, 0], Shape::Results)?);
        packets.extend(session.exchange(&[0x1a, 99, 0, 0, 0], Shape::Packet)?);
        packets.extend(session.exchange(&[0x1c, 99, 0, 0, 0, 1, 0, 0, 0], Shape::Rows)?);
        session.command(&[0x19, 99, 0, 0, 0])?;
        packets.extend(session.query("SELECT 'alive'")?);
        Ok(packets)
    })?;
    // COM_QUIT: the other side closes without a word.
    lab::solo()?.ways.agree("COM_QUIT", |port| {
        let mut session = session(port)?;
        session.command(&[0x01])?;
        Ok(session.packet().is_err())
    })?;
    Ok(())
}

fn unknown() -> Verdict {
    let packets = packets_agree("unknown commands", 0, |session| {
        let mut packets = Vec::new();
        for command in [0x7f_u8, 0x40, 0xc0, 0x20, 0x00, 0x05, 0x06, 0x08, 0x0b, 0x0f, 0x10, 0x13, 0x14] {
            packets.extend(session.exchange(&[command, 1, 2, 3], Shape::Packet)?);
        }
        packets.extend(session.query("SELECT 'alive'")?);
        Ok(packets)
    })?;
    ensure!(packets[0].starts_with(&[0xff, 0x17, 0x04]), "0x7f is not answered by 1047: {:?}", packets[0]);
    Ok(())
}

fn statistics() -> Verdict {
    lab::solo()?.ways.agree("COM_STATISTICS", |port| {
        let mut session = session(port)?;
        let reply = session.exchange(&[0x09], Shape::Packet)?;
        let text = String::from_utf8_lossy(&reply[0]).into_owned();
        ensure!(text.starts_with("Uptime: ") && text.contains("Queries per second"), "{text}");
        session.query("SELECT 1")
    })?;
    Ok(())
}

fn field_list() -> Verdict {
    packets_agree("COM_FIELD_LIST", 0, |session| {
        let mut packets = session.exchange(b"\x04greeting\0", Shape::FieldList)?;
        packets.extend(session.exchange(b"\x04greeting\0w%", Shape::FieldList)?);
        packets.extend(session.exchange(b"\x04no_such_table\0", Shape::FieldList)?);
        packets.extend(session.query("SELECT 1")?);
        Ok(packets)
    })?;
    packets_agree("COM_FIELD_LIST without EOF", capability::DEPRECATE_EOF, |session| {
        let mut packets = session.exchange(b"\x04greeting\0", Shape::FieldList)?;
        packets.extend(session.query("SELECT 1")?);
        Ok(packets)
    })?;
    Ok(())
}

fn set_option() -> Verdict {
    packets_agree("COM_SET_OPTION", 0, |session| {
        let mut packets = session.exchange(&[0x1b, 1, 0], Shape::Packet)?;
        packets.extend(session.query("SELECT 1; SELECT 2")?);
        packets.extend(session.exchange(&[0x1b, 0, 0], Shape::Packet)?);
        packets.extend(session.query("SELECT 1; SELECT 2")?);
        packets.extend(session.exchange(&[0x1b, 9, 0], Shape::Packet)?);
        Ok(packets)
    })?;
    packets_agree("COM_SET_OPTION without EOF", capability::DEPRECATE_EOF, |session| {
        let mut packets = session.exchange(&[0x1b, 0, 0], Shape::Packet)?;
        packets.extend(session.query("SELECT 1; SELECT 2")?);
        Ok(packets)
    })?;
    Ok(())
}

fn reset_connection() -> Verdict {
    packets_agree("COM_RESET_CONNECTION", 0, |session| {
        let mut packets = session.query("SET @a = 1; CREATE TEMPORARY TABLE mine (n INT); BEGIN")?;
        packets.extend(session.exchange(&[0x1f], Shape::Packet)?);
        packets.extend(session.query("SELECT @a, DATABASE(), @@in_transaction")?);
        packets.extend(session.query("SELECT * FROM mine")?);
        Ok(packets)
    })?;
    Ok(())
}

/// Prepares a statement; returns its id and the reply with the id blanked, since ids may differ between sessions.
fn prepare(session: &mut Raw, sql: &str) -> Outcome<([u8; 4], Vec<Vec<u8>>)> {
    let mut reply = session.exchange(&[&[0x16], sql.as_bytes()].concat(), Shape::Prepare)?;
    ensure!(reply[0][0] == 0, "cannot prepare {sql}: {:?}", reply[0]);
    let id = [reply[0][1], reply[0][2], reply[0][3], reply[0][4]];
    reply[0][1..5].fill(0);
    Ok((id, reply))
}

fn cursors() -> Verdict {
    let packets = packets_agree("cursors", 0, |session| {
        let (id, mut packets) = prepare(session, "SELECT seq, REPEAT('z', seq) FROM seq_1_to_10")?;
        let (other, reply) = prepare(session, "SELECT 'between'")?;
        packets.extend(reply);
        let execute = |id: [u8; 4], flags: u8| [&[0x17], &id[..], &[flags, 1, 0, 0, 0]].concat();
        let fetch = |count: u8| [&[0x1c], &id[..], &[count, 0, 0, 0]].concat();
        packets.extend(session.exchange(&execute(id, 1), Shape::Results)?);
        packets.extend(session.exchange(&fetch(4), Shape::Rows)?);
        packets.extend(session.exchange(&execute(other, 0), Shape::Results)?);
        packets.extend(session.query("SELECT 'text between'")?);
        packets.extend(session.exchange(&fetch(4), Shape::Rows)?);
        packets.extend(session.exchange(&fetch(4), Shape::Rows)?);
        packets.extend(session.exchange(&fetch(4), Shape::Rows)?);
        packets.extend(session.exchange(&[&[0x1a], &id[..]].concat(), Shape::Packet)?);
        packets.extend(session.exchange(&execute(id, 0), Shape::Results)?);
        session.command(&[&[0x19], &id[..]].concat())?;
        packets.extend(session.exchange(&execute(id, 0), Shape::Results)?);
        // Errors name the statement by its id.
        for packet in packets.iter_mut().filter(|packet| packet.first() == Some(&0xff)) {
            packet.retain(|byte| !byte.is_ascii_digit());
        }
        Ok(packets)
    })?;
    ensure!(packets.len() > 30, "only {} packets", packets.len());
    Ok(())
}

fn long_data() -> Verdict {
    let packets = packets_agree("COM_STMT_SEND_LONG_DATA", 0, |session| {
        let (id, mut packets) = prepare(session, "SELECT LENGTH(?), SHA1(?), ?")?;
        let send = |session: &mut Raw, number: u8, data: &[u8]| {
            session.command(&[&[0x18], &id[..], &[number, 0], data].concat())
        };
        send(session, 0, b"abc")?;
        send(session, 0, &vec![b'd'; 17 << 20])?;
        send(session, 0, b"")?;
        for round in 0..50_u8 {
            send(session, 1, &[round; 1000])?;
        }
        // Two long parameters (their types are blobs), one short.
        let types = [0xfc, 0, 0xfc, 0, 0xfd, 0];
        let execute = [&[0x17], &id[..], &[0, 1, 0, 0, 0], &[0, 1], &types[..], &[3], b"end"].concat();
        packets.extend(session.exchange(&execute, Shape::Results)?);
        packets.extend(session.query("SELECT 'alive'")?);
        Ok(packets)
    })?;
    let length = ((17 << 20) + 3_u64).to_le_bytes();
    ensure!(
        packets.iter().any(|row| row.windows(4).any(|window| window == &length[..4])),
        "the length is not in the row"
    );
    Ok(())
}

fn session_track() -> Verdict {
    let tracked = capability::SESSION_TRACK;
    let packets = packets_agree("session tracking", tracked, |session| {
        let mut packets = Vec::new();
        for sql in [
            "SET @@session_track_system_variables = '*', @@session_track_state_change = 1, \
             @@session_track_transaction_info = 'CHARACTERISTICS'",
            "USE lab2",
            "SET NAMES latin1",
            "SET autocommit = 0",
            "BEGIN",
            "SELECT * FROM lab.greeting",
            "INSERT INTO lab.greeting VALUES ('again')",
            "ROLLBACK",
            "SET sql_mode = 'ANSI', time_zone = '+01:00'",
        ] {
            packets.extend(session.query(sql)?);
        }
        packets.extend(session.exchange(b"\x02lab", Shape::Packet)?);
        Ok(packets)
    })?;
    ensure!(
        packets.iter().any(|packet| packet.windows(7).any(|window| window == b"\x01\x05\x04lab2")),
        "no tracked schema in {packets:?}"
    );
    packets_agree("session tracking without EOF", tracked | capability::DEPRECATE_EOF, |session| {
        let mut packets = session.query("SET @@session_track_transaction_info = 'STATE'")?;
        packets.extend(session.query("BEGIN; SELECT * FROM lab.greeting; COMMIT; USE lab2")?);
        Ok(packets)
    })?;
    Ok(())
}

fn error_in_mid_result() -> Verdict {
    let sql = "SELECT seq, (SELECT n FROM (SELECT 1 AS n UNION ALL SELECT 2) t WHERE o.seq > 15000) FROM seq_1_to_20000 o";
    for capabilities in [0, capability::DEPRECATE_EOF] {
        let packets = packets_agree("an error after rows", capabilities, |session| {
            let mut packets = session.query(sql)?;
            packets.extend(session.query("SELECT 'alive'")?);
            Ok(packets)
        })?;
        ensure!(packets.len() > 15_000, "only {} packets", packets.len());
        ensure!(packets.iter().any(|packet| packet.starts_with(&[0xff, 0xda, 0x04])), "no error 1242");
    }
    Ok(())
}

fn load_data_packets() -> Verdict {
    packets_agree("LOAD DATA LOCAL in packets", 0, |session| {
        let mut packets = session.query("CREATE TEMPORARY TABLE loaded (n INT)")?;
        // The file name in the request is the server's word, whatever it is.
        packets.extend(session.query("LOAD DATA LOCAL INFILE 'any name' INTO TABLE loaded")?);
        session.continue_with(b"1\n2\n")?;
        session.continue_with(b"3\n")?;
        session.continue_with(b"")?;
        packets.extend(session.reply(Shape::Results)?);
        // An empty file, then one inside several statements.
        packets.extend(session.query("LOAD DATA LOCAL INFILE 'empty' INTO TABLE loaded")?);
        session.continue_with(b"")?;
        packets.extend(session.reply(Shape::Results)?);
        packets.extend(session.query("SELECT 1; LOAD DATA LOCAL INFILE 'more' INTO TABLE loaded; SELECT 2")?);
        session.continue_with(b"4\n")?;
        session.continue_with(b"")?;
        packets.extend(session.reply(Shape::Results)?);
        packets.extend(session.query("LOAD DATA LOCAL INFILE 'x' INTO TABLE no_such_table")?);
        packets.extend(session.query("SELECT SUM(n), COUNT(*) FROM loaded")?);
        Ok(packets)
    })?;
    Ok(())
}

/// Several commands in one row of bytes, each numbered from 0.
fn joined(commands: &[Vec<u8>]) -> Vec<u8> {
    commands.iter().flat_map(|command| frame(command, &mut 0)).collect()
}

/// Reads the replies of pipelined commands; numbering starts anew for each.
fn replies(session: &mut Raw, shapes: &[Shape]) -> Outcome<Vec<Vec<u8>>> {
    let mut packets = Vec::new();
    for &shape in shapes {
        session.expect_reply();
        packets.extend(session.reply(shape)?);
    }
    Ok(packets)
}

fn numbered_queries(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| query(&format!("SELECT {number}, REPEAT('p', {})", number * 100))).collect()
}

fn pipelined_in_one_segment() -> Verdict {
    let packets = packets_agree("pipelined commands in one segment", 0, |session| {
        session.write(&joined(&numbered_queries(50)))?;
        replies(session, &[Shape::Results; 50])
    })?;
    same!(packets.len(), 50 * 6, "packets of 50 replies");
    Ok(())
}

fn pipelined_byte_by_byte() -> Verdict {
    packets_agree("commands byte by byte", 0, |session| {
        for byte in joined(&numbered_queries(3)) {
            session.write(&[byte])?;
        }
        replies(session, &[Shape::Results; 3])
    })?;
    // Cut at every place: header and payload in different segments.
    let bytes = joined(&numbered_queries(2));
    for cut in [1, 2, 3, 4, 5, bytes.len() / 2, bytes.len() - 1] {
        packets_agree(&format!("two commands cut at {cut}"), 0, |session| {
            session.write(&bytes[..cut])?;
            std::thread::sleep(std::time::Duration::from_millis(20));
            session.write(&bytes[cut..])?;
            replies(session, &[Shape::Results; 2])
        })?;
    }
    Ok(())
}

fn pipelined_mixed() -> Verdict {
    use Shape::{FieldList, Packet, Results};
    let packets = packets_agree("pipelined commands of many kinds", 0, |session| {
        let (id, _) = prepare(session, "SELECT LENGTH(?)")?;
        let long = |data: &[u8]| [&[0x18], &id[..], &[0, 0], data].concat();
        let execute = [&[0x17], &id[..], &[0, 1, 0, 0, 0], &[0, 1, 0xfc, 0]].concat();
        // Commands that have no answer stand between those that have one.
        session.write(&joined(&[
            query("SELECT 1; SELECT 2"),
            vec![0x0e],
            long(&[b'a'; 5000]),
            long(&vec![b'b'; 70_000]),
            execute,
            b"\x02lab2".to_vec(),
            query("SELECT DATABASE()"),
            query("wrong"),
            [&[0x19], &id[..]].concat(),
            b"\x04greeting\0".to_vec(),
            vec![0x1f],
            query("SELECT seq FROM seq_1_to_3000"),
            vec![0x7f],
            vec![0x0e],
        ]))?;
        replies(
            session,
            &[Results, Packet, Results, Packet, Results, Results, FieldList, Packet, Results, Packet, Packet],
        )
    })?;
    ensure!(packets.len() > 3000, "only {} packets", packets.len());
    Ok(())
}

/// The largest payload of one physical packet.
const FULL: usize = 0xff_ff_ff;

fn packet_limits_to_server() -> Verdict {
    for size in [FULL - 1, FULL, FULL + 1, 2 * FULL, 2 * FULL + 1] {
        packets_agree(&format!("a query of {size} bytes"), 0, |session| {
            let (head, tail) = ("SELECT LENGTH('", "') AS size");
            let text = "q".repeat(size - 1 - head.len() - tail.len());
            let packets = session.query(&format!("{head}{text}{tail}"))?;
            same!(first_value(&packets)?, text.len().to_string(), "length that the server saw");
            session.query("SELECT 'alive'")
        })?;
    }
    Ok(())
}

fn packet_limits_to_client() -> Verdict {
    for size in [FULL - 1, FULL, FULL + 1, 2 * FULL - 1, 2 * FULL, 2 * FULL + 1] {
        for capabilities in [0, capability::DEPRECATE_EOF] {
            lab::solo()?.ways.agree(&format!("a row of {size} bytes"), |port| {
                let mut session = session_with(port, capabilities)?;
                // The value's length takes 4 bytes below 16 MiB and 9 above.
                let prefix = if size - 4 <= FULL { 4 } else { 9 };
                session.command(&query(&format!("SELECT REPEAT('r', {})", size - prefix)))?;
                for _ in 0..(if capabilities == 0 { 3 } else { 2 }) {
                    session.packet()?;
                }
                let row = session.packet()?;
                same!(row.len(), size, "size of the row");
                let pieces = session.pieces;
                let end = session.packet()?;
                let digest = format!("{:x?}", Sha1::digest(&row));
                Ok((digest, pieces, end, session.query("SELECT 'alive'")?))
            })?;
        }
    }
    Ok(())
}
