//! The text console, for `telnet`, `nc` and scripts: a line in, lines out, and a prompt.
//!
//! ```text
//! Spillway 0.1.0 console. Type help.
//! password: (TCP, and Unix sockets of another user)
//! ok
//! spillway> show nodes
//! ```
//!
//! Commands, their help and what they do come from [`control`](crate::control). Whatever could not be done is told
//! in lines that begin with `error: `. The prompt stands without a line's end, so that a script knows an answer is
//! complete when it reads `spillway> `.

mod ctl;
mod lines;
#[cfg(test)]
mod tests;
mod text;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::control::{Answer, Caller, Control, Invocation, OperationError, Right, VERSION};
use crate::ids::ClientAddr;
use crate::lifecycle::Phase;
use crate::net::{Listener, Stream, own_uid};
pub use ctl::{CtlError, Said, ctl};
pub use lines::{LONGEST as LONGEST_LINE, Line, Lines};

/// The most consoles of one listener at a time.
const MOST: usize = 16;

/// How often a wrong password is forgiven.
const TRIES: u32 = 3;

/// What stands before every command.
const PROMPT: &str = "spillway> ";

/// The times that a console keeps.
#[derive(Debug, Clone, Copy)]
struct Manners {
    /// From the connection to the right password.
    login: Duration,
    /// Before the answer to a wrong password.
    wrong_password: Duration,
    /// How long nothing may be typed.
    idle: Duration,
    /// How long the other side may take to read an answer.
    write: Duration,
}

const MANNERS: Manners = Manners {
    login: Duration::from_mins(1),
    wrong_password: Duration::from_secs(1),
    idle: Duration::from_mins(10),
    write: Duration::from_secs(30),
};

/// How a connection comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entrance {
    /// The operating system says that it is this process's user, or root.
    Known,
    /// With the password.
    Password,
}

/// Serves consoles until the process stops.
///
/// On TCP a password is asked for; on a Unix socket only from users other than this process's and root. At most 16
/// consoles are served at a time.
pub async fn serve(listener: Listener, control: Arc<Control>) {
    serve_with(listener, control, MANNERS).await;
}

async fn serve_with(mut listener: Listener, control: Arc<Control>, manners: Manners) {
    let own = own_uid();
    // Dropped at the end, which closes the consoles that are still open.
    let mut open = JoinSet::new();
    loop {
        let (mut stream, client) = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = open.join_next() => continue,
            () = control.lifecycle.reached(Phase::Stopping) => return,
        };
        if open.len() >= MOST {
            warn!(%client, most = MOST, "too many consoles");
            let text = format!("error: {MOST} consoles are open already; close one, or try again later\n");
            // A fresh socket takes a line at once; one that does not is closed without a word.
            let _ = timeout(Duration::from_millis(100), stream.write_all(text.as_bytes())).await;
            continue;
        }
        let entrance = match client {
            ClientAddr::Unix { uid: Some(uid) } if uid == 0 || Some(uid) == own => Entrance::Known,
            _ => Entrance::Password,
        };
        open.spawn(attend(stream, client, entrance, Arc::clone(&control), manners));
    }
}

async fn attend(
    stream: Stream,
    client: ClientAddr,
    entrance: Entrance,
    control: Arc<Control>,
    manners: Manners,
) {
    let caller = Caller { name: format!("console {client}"), right: Right::Write };
    let lifecycle = control.lifecycle.clone();
    let mut conversation = Conversation { stream, input: Input::default(), control, caller, manners };
    tokio::select! {
        // An error means that the other side is gone or too slow, and there is nobody to tell.
        _ = conversation.hold(entrance) => {}
        () = lifecycle.reached(Phase::Stopping) => {}
    }
}

/// One console. The stream is anything that carries bytes, for tests.
struct Conversation<S> {
    stream: S,
    input: Input,
    control: Arc<Control>,
    caller: Caller,
    manners: Manners,
}

/// What was read and not yet used.
struct Input {
    lines: Lines,
    chunk: [u8; 1024],
    next: usize,
    end: usize,
    ended: bool,
}

impl Default for Input {
    fn default() -> Self {
        Self { lines: Lines::default(), chunk: [0; 1024], next: 0, end: 0, ended: false }
    }
}

impl Input {
    /// The next line, or none when no more will come. Cancel safe.
    async fn line(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Line>> {
        loop {
            while self.next < self.end {
                let byte = self.chunk[self.next];
                self.next += 1;
                if let Some(line) = self.lines.push(byte) {
                    return Ok(Some(line));
                }
            }
            if self.ended {
                return Ok(None);
            }
            (self.next, self.end) = (0, stream.read(&mut self.chunk).await?);
            if self.end == 0 {
                self.ended = true;
                return Ok(self.lines.finish());
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    async fn hold(&mut self, entrance: Entrance) -> io::Result<()> {
        self.say(&format!("Spillway {VERSION} console. Type help.\n")).await?;
        if entrance == Entrance::Password {
            let limit = self.manners.login;
            match timeout(limit, self.log_in()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return self.stream.shutdown().await,
                Ok(Err(e)) => return Err(e),
                Err(_) => return self.leave("error: no password in time\n").await,
            }
        }
        info!(by = self.caller.name, "console opened");
        let ended = self.commands().await;
        info!(by = self.caller.name, "console closed");
        ended
    }

    /// Asks for the password, at most three times. False: the caller stays outside.
    async fn log_in(&mut self) -> io::Result<bool> {
        if !self.control.has_console_password() {
            self.say("error: no admin.password is configured; only this process's own user may come in\n")
                .await?;
            return Ok(false);
        }
        for attempt in 1..=TRIES {
            self.say("password: ").await?;
            let Some(line) = self.input.line(&mut self.stream).await? else { return Ok(false) };
            if matches!(line, Line::Bytes(given) if self.control.is_console_password(&given)) {
                self.say("ok\n").await?;
                return Ok(true);
            }
            warn!(by = self.caller.name, attempt, "wrong console password");
            sleep(self.manners.wrong_password).await;
            self.say("error: wrong password\n").await?;
        }
        Ok(false)
    }

    async fn commands(&mut self) -> io::Result<()> {
        loop {
            self.say(PROMPT).await?;
            let line = match timeout(self.manners.idle, self.input.line(&mut self.stream)).await {
                Ok(line) => line?,
                Err(_) => return self.leave("\nerror: nothing was typed for too long\n").await,
            };
            let Some(line) = line else { return Ok(()) };
            match self.execute(line).await {
                Ok(None) => {}
                Ok(Some(Answer::Quit)) => return self.leave(&text::answer(&Answer::Quit)).await,
                Ok(Some(answer)) => self.say(&text::answer(&answer)).await?,
                Err(refused) => self.say(&text::refusal(&refused)).await?,
            }
        }
    }

    async fn execute(&self, line: Line) -> Result<Option<Answer>, OperationError> {
        let Line::Bytes(bytes) = line else {
            let message = format!("the line is longer than {} bytes; type help", lines::LONGEST);
            return Err(OperationError::bad_request(message));
        };
        let typed = std::str::from_utf8(&bytes)
            .map_err(|_| OperationError::bad_request("the line is not UTF-8 text; type help"))?;
        match Invocation::parse(typed)? {
            Some(wanted) => self.control.run(&self.caller, &wanted).await.map(Some),
            None => Ok(None),
        }
    }

    async fn leave(&mut self, last_words: &str) -> io::Result<()> {
        self.say(last_words).await?;
        self.stream.shutdown().await
    }

    async fn say(&mut self, text: &str) -> io::Result<()> {
        timeout(self.manners.write, self.stream.write_all(text.as_bytes())).await??;
        self.stream.flush().await
    }
}
