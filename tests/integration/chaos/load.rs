//! Clients that write numbered rows and read them, each with a diary of what it saw.

use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::lab::PASSWORD;
use crate::moves::{execute, prepare, run, value};
use crate::raw::{self, Credentials, Raw, Refusal, Shape, first_value};
use crate::{Verdict, same};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The schema of all these clients.
pub(super) const SCHEMA: &str = "chaos";

/// The schema, the clients' account, and a row that is read over and over.
pub(super) const SET_UP: &str = "
    CREATE DATABASE chaos;
    CREATE TABLE chaos.ledger (client INT, number INT, PRIMARY KEY (client, number));
    INSERT INTO chaos.ledger VALUES (0, 7);
    CREATE USER app@'%' IDENTIFIED BY 'app-secret'; GRANT ALL ON chaos.* TO app@'%';
";

const WRITERS: usize = 4;
const READERS: usize = 2;
const TRANSACTORS: usize = 3;

/// Between two statements of a client; a gap cannot be told from a pause that is shorter.
const PAUSE: Duration = Duration::from_millis(5);

/// Between two statements of a transaction, so that some are open whatever happens when: from 10 to 29 ms, and never the same
/// for all clients, or they would all be at the same statement.
fn thought(client: u32, row: u32) -> Duration {
    Duration::from_millis(10 + u64::from(client * 7 + row * 13) % 20)
}

/// The statements of a transaction.
const PER_TRANSACTION: u64 = 4;

/// Before a client that was told of an error connects again.
const AFTER_ERROR: Duration = Duration::from_millis(20);

/// How long a client waits for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Each client has a number of its own among all of this run, because the table stays.
static NEXT_CLIENT: AtomicU32 = AtomicU32::new(1);

/// What a client does, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Writes through Spillway.
    Writer,
    /// Writes two rows at a time through Spillway, in a transaction.
    Transactor,
    /// Reads through Spillway.
    Reader,
    /// Writes to a node itself: what the servers do without Spillway.
    Direct,
}

/// Where the clients of a load connect.
#[derive(Clone, Copy)]
pub(super) struct Doors {
    /// Spillway's service with the writer.
    pub(super) writes: SocketAddr,
    /// Spillway's service with any node.
    pub(super) reads: SocketAddr,
    /// A node that stays.
    pub(super) direct: Option<SocketAddr>,
}

/// An error that a client was told, or a connection that broke.
pub(super) struct Trouble {
    pub(super) at: Instant,
    pub(super) text: String,
}

/// What one client saw.
pub(super) struct Diary {
    pub(super) role: Role,
    pub(super) client: u32,
    /// When its first statement was sent, or the last one was answered: the ends of its last gap.
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// The numbers of its statements that were answered well, and when.
    pub(super) acknowledged: Vec<(u32, Instant)>,
    /// Those that were sent and not answered well: done or not, but not twice.
    pub(super) unknown: Vec<u32>,
    /// The numbers of transactions that broke before their COMMIT was sent: not done.
    pub(super) broken: Vec<u32>,
    /// When each transaction that was acknowledged began.
    pub(super) opened: Vec<Instant>,
    pub(super) troubles: Vec<Trouble>,
}

/// Clients at work.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<Running>,
    idle: Idle,
    phases: Vec<(&'static str, Instant)>,
}

struct Running {
    role: Role,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Diary>,
}

/// What all clients of a load saw.
pub(super) struct Records {
    pub(super) diaries: Vec<Diary>,
    /// What went on, and since when.
    pub(super) phases: Vec<(&'static str, Instant)>,
    /// What the idle session found at the end.
    pub(super) idle: Verdict,
}

impl Load {
    /// Starts the clients and waits until all are served.
    pub(super) fn start(doors: Doors) -> Outcome<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let idle = Idle::begin(doors.writes)?;
        let mut plan = vec![(Role::Writer, doors.writes); WRITERS];
        plan.extend(vec![(Role::Transactor, doors.writes); TRANSACTORS]);
        plan.extend(vec![(Role::Reader, doors.reads); READERS]);
        plan.push((Role::Reader, doors.writes));
        plan.extend(doors.direct.map(|node| (Role::Direct, node)));
        let clients = plan.into_iter().map(|(role, door)| Running::start(role, door, &stop)).collect();
        let load = Self { stop, clients, idle, phases: vec![("before", Instant::now())] };
        load.goes_on(100)?;
        Ok(load)
    }

    /// Something happens now.
    pub(super) fn phase(&mut self, what: &'static str) {
        self.phases.push((what, Instant::now()));
    }

    /// Waits until every client that goes through Spillway has had `statements` more answered.
    pub(super) fn goes_on(&self, statements: u64) -> Verdict {
        let clients = || self.clients.iter().filter(|client| client.role != Role::Direct);
        let wanted: Vec<u64> =
            clients().map(|client| client.done.load(Ordering::Relaxed) + statements).collect();
        wait_for("every client is served", PATIENCE, || {
            let done: Vec<u64> = clients().map(|client| client.done.load(Ordering::Relaxed)).collect();
            let served = done.iter().zip(&wanted).all(|(done, wanted)| done >= wanted);
            if served { Ok(()) } else { Err(format!("{done:?} of {wanted:?} statements")) }
        })
    }

    /// Ends the clients and asks them.
    pub(super) fn stop(self) -> Outcome<Records> {
        self.stop.store(true, Ordering::Relaxed);
        let mut diaries = Vec::new();
        for client in self.clients {
            diaries.push(client.thread.join().map_err(|_| "a client panicked".to_owned())?);
        }
        Ok(Records { diaries, phases: self.phases, idle: self.idle.end() })
    }
}

impl Role {
    /// How many statements one step is.
    fn statements(self) -> u64 {
        if self == Self::Transactor { PER_TRANSACTION } else { 1 }
    }
}

/// What became of a step that was not answered well.
enum Failure {
    /// Of what was sent nothing can be done.
    Broken(String),
    /// It may be done.
    Unknown(String),
}

impl Running {
    fn start(role: Role, door: SocketAddr, stop: &Arc<AtomicBool>) -> Self {
        let done = Arc::new(AtomicU64::new(0));
        let (stop, counted) = (Arc::clone(stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let mut client = Client { door, session: None, diary: Diary::new(role) };
            while !stop.load(Ordering::Relaxed) {
                if client.step() {
                    counted.fetch_add(role.statements(), Ordering::Relaxed);
                    std::thread::sleep(PAUSE);
                } else {
                    std::thread::sleep(AFTER_ERROR);
                }
            }
            client.diary.ended = Instant::now();
            client.diary
        });
        Self { role, done, thread }
    }
}

impl Diary {
    fn new(role: Role) -> Self {
        Self {
            role,
            client: NEXT_CLIENT.fetch_add(1, Ordering::Relaxed),
            began: Instant::now(),
            ended: Instant::now(),
            acknowledged: Vec::new(),
            unknown: Vec::new(),
            broken: Vec::new(),
            opened: Vec::new(),
            troubles: Vec::new(),
        }
    }
}

struct Client {
    door: SocketAddr,
    session: Option<Raw>,
    diary: Diary,
}

impl Client {
    /// One statement or transaction, on a new connection after an error. True if it was answered well.
    fn step(&mut self) -> bool {
        let session = match self.session.take().map_or_else(|| login(self.door), Ok) {
            Ok(session) => session,
            Err(text) => {
                self.trouble(format!("login: {text}"));
                return false;
            }
        };
        let diary = &self.diary;
        let number = (diary.acknowledged.len() + diary.unknown.len() + diary.broken.len() + 1) as u32;
        let begun = Instant::now();
        match self.ask(session, number) {
            Ok(session) => {
                self.session = Some(session);
                self.diary.acknowledged.push((number, Instant::now()));
                if self.diary.role == Role::Transactor {
                    self.diary.opened.push(begun);
                }
                true
            }
            Err(Failure::Unknown(text)) => {
                self.diary.unknown.push(number);
                self.trouble(text);
                false
            }
            Err(Failure::Broken(text)) => {
                self.diary.broken.push(number);
                self.trouble(text);
                false
            }
        }
    }

    fn trouble(&mut self, text: String) {
        self.diary.troubles.push(Trouble { at: Instant::now(), text });
    }

    fn ask(&self, mut session: Raw, number: u32) -> Result<Raw, Failure> {
        match self.diary.role {
            Role::Reader => {
                let read = value(&mut session, "SELECT number FROM ledger WHERE client = 0 AND number = 7");
                match read.map_err(Failure::Unknown)?.as_str() {
                    "7" => Ok(session),
                    read => Err(Failure::Unknown(format!("read {read:?}"))),
                }
            }
            Role::Writer | Role::Direct => {
                self.insert(&mut session, number).map_err(Failure::Unknown)?;
                Ok(session)
            }
            Role::Transactor => {
                self.in_transaction(&mut session, number).map_err(Failure::Broken)?;
                done(&mut session, "COMMIT").map_err(|text| Failure::Unknown(format!("COMMIT: {text}")))?;
                Ok(session)
            }
        }
    }

    /// All of a transaction but its COMMIT.
    fn in_transaction(&self, session: &mut Raw, number: u32) -> Verdict {
        done(session, "BEGIN").map_err(|text| format!("BEGIN: {text}"))?;
        for row in rows_of(number) {
            std::thread::sleep(thought(self.diary.client, row));
            self.insert(session, row).map_err(|text| format!("INSERT: {text}"))?;
        }
        std::thread::sleep(thought(self.diary.client, number));
        Ok(())
    }

    fn insert(&self, session: &mut Raw, row: u32) -> Verdict {
        done(session, &format!("INSERT INTO ledger VALUES ({}, {row})", self.diary.client))
    }
}

/// The rows that the transaction with this number writes.
pub(super) fn rows_of(number: u32) -> [u32; 2] {
    [2 * number - 1, 2 * number]
}

/// Runs a statement that is answered with OK.
fn done(session: &mut Raw, statement: &str) -> Verdict {
    let reply = session.query(statement)?;
    match reply[0].first() {
        Some(0) => Ok(()),
        _ => Err(words(&Refusal::parse(&reply[0])?)),
    }
}

fn login(door: SocketAddr) -> Outcome<Raw> {
    let stream = TcpStream::connect_timeout(&door, ANSWER_LIMIT).map_err(|e| format!("connect: {e}"))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    raw::login_over(stream, &Credentials::new("app", PASSWORD, Some(SCHEMA)))?
        .map_err(|refusal| words(&refusal))
}

fn words(refusal: &Refusal) -> String {
    format!("error {}: {}", refusal.code, refusal.message)
}

/// A session that says nothing until the end, and has something to lose.
struct Idle {
    session: Raw,
    statement: u32,
}

impl Idle {
    fn begin(door: SocketAddr) -> Outcome<Self> {
        let mut session = login(door)?;
        run(&mut session, "SET @word = 'kept', SESSION sql_mode = 'ANSI_QUOTES'")?;
        let statement = prepare(&mut session, "SELECT CONCAT(@word, ?)")?;
        same!(execute(&mut session, statement, &[1], true)?, "kept1", "a prepared statement");
        Ok(Self { session, statement })
    }

    /// Its first statement finds everything as it was.
    fn end(mut self) -> Verdict {
        same!(execute(&mut self.session, self.statement, &[2], false)?, "kept2", "prepared statement");
        same!(value(&mut self.session, "SELECT @@sql_mode")?, "ANSI_QUOTES", "settings");
        same!(
            first_value(&self.session.exchange(&raw::query("SELECT DATABASE()"), Shape::Results)?)?,
            SCHEMA,
            "schema"
        );
        Ok(())
    }
}
