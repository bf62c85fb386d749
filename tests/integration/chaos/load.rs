//! Clients that write numbered rows and read them, each with a diary of what it saw.

use crate::harness::{Outcome, wait_for};
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

/// Between two statements of a client; a gap cannot be told from a pause that is shorter.
const PAUSE: Duration = Duration::from_millis(5);

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
        wait_for("every client is served", Duration::from_secs(40), || {
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

impl Running {
    fn start(role: Role, door: SocketAddr, stop: &Arc<AtomicBool>) -> Self {
        let done = Arc::new(AtomicU64::new(0));
        let (stop, counted) = (Arc::clone(stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let mut client = Client { door, session: None, diary: Diary::new(role) };
            while !stop.load(Ordering::Relaxed) {
                if client.step() {
                    counted.fetch_add(1, Ordering::Relaxed);
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
    /// One statement, on a new connection after an error. True if it was answered well.
    fn step(&mut self) -> bool {
        let session = match self.session.take().map_or_else(|| login(self.door), Ok) {
            Ok(session) => session,
            Err(text) => {
                self.trouble(format!("login: {text}"));
                return false;
            }
        };
        let number = (self.diary.acknowledged.len() + self.diary.unknown.len() + 1) as u32;
        match self.ask(session, number) {
            Ok(session) => {
                self.session = Some(session);
                self.diary.acknowledged.push((number, Instant::now()));
                true
            }
            Err(text) => {
                self.diary.unknown.push(number);
                self.trouble(text);
                false
            }
        }
    }

    fn trouble(&mut self, text: String) {
        self.diary.troubles.push(Trouble { at: Instant::now(), text });
    }

    fn ask(&self, mut session: Raw, number: u32) -> Outcome<Raw> {
        if self.diary.role == Role::Reader {
            let read = value(&mut session, "SELECT number FROM ledger WHERE client = 0 AND number = 7")?;
            return if read == "7" { Ok(session) } else { Err(format!("read {read:?}")) };
        }
        let reply = session.query(&format!("INSERT INTO ledger VALUES ({}, {number})", self.diary.client))?;
        match reply[0].first() {
            Some(0) => Ok(session),
            _ => Err(words(&Refusal::parse(&reply[0])?)),
        }
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
