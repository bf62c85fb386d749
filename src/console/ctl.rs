//! One command from the command line to the console of a running Spillway.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::PROMPT;
use crate::config::{Admin, Secret};
use crate::ids::ListenAddr;

/// How long the console may take to let somebody in.
const LOGIN: Duration = Duration::from_secs(10);

/// How long it may take for an answer: longer than any change of a writer.
const ANSWER: Duration = Duration::from_mins(5);

/// Longest answer, in bytes.
const LONGEST: usize = 64 << 20;

const PASSWORD: &str = "password: ";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// The configuration names no console.
    #[error("admin.console names no address")]
    NoConsole,
    /// A word has a line's end in it.
    #[error("a command is one line")]
    NotALine,
    /// Nobody answers there, or not as a console does.
    #[error("console {address}: {reason}")]
    Unavailable {
        /// The address.
        address: ListenAddr,
        /// What happened.
        reason: String,
    },
}

/// What the console answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Every line.
    pub text: String,
    /// Whether what was asked for was not done.
    pub failed: bool,
}

/// Runs a command on the console of a configuration, on its Unix socket if it has one.
///
/// # Errors
/// There is no console, or it does not answer.
pub async fn ctl(admin: &Admin, words: &[String]) -> Result<Said, CtlError> {
    let line = words.join(" ");
    if line.contains(['\n', '\r']) {
        return Err(CtlError::NotALine);
    }
    let is_unix = |address: &&ListenAddr| matches!(address, ListenAddr::Unix(_));
    let address = admin.console.iter().find(is_unix).or_else(|| admin.console.first());
    let address = address.ok_or(CtlError::NoConsole)?;
    let unavailable = |reason: io::Error| {
        let (address, reason) = (address.clone(), reason.to_string());
        CtlError::Unavailable { address, reason }
    };
    let password = admin.password.as_ref();
    match address {
        ListenAddr::Tcp(to) => {
            let stream = timeout(LOGIN, TcpStream::connect(to)).await.map_err(|e| unavailable(e.into()))?;
            converse(stream.map_err(unavailable)?, password, &line).await.map_err(unavailable)
        }
        ListenAddr::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(unavailable)?;
            converse(stream, password, &line).await.map_err(unavailable)
        }
    }
}

async fn converse<S>(mut stream: S, password: Option<&Secret>, line: &str) -> io::Result<Said>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut heard = Vec::new();
    let greeting = timeout(LOGIN, hear(&mut stream, &mut heard, &[PASSWORD, PROMPT])).await??;
    if greeting.ends_with(PASSWORD) {
        let Some(password) = password else {
            return Err(io::Error::other(
                "it asks for admin.password, which the configuration does not have",
            ));
        };
        let answer = Zeroizing::new(format!("{}\n", password.expose()));
        stream.write_all(answer.as_bytes()).await?;
        let verdict = timeout(LOGIN, hear(&mut stream, &mut heard, &[PASSWORD, PROMPT])).await??;
        if verdict.ends_with(PASSWORD) {
            return Err(io::Error::other("it does not take the password of this configuration"));
        }
    }
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    // After `quit` there is no prompt.
    let mut text = timeout(ANSWER, hear(&mut stream, &mut heard, &[PROMPT])).await??;
    text.truncate(text.strip_suffix(PROMPT).map_or(text.len(), str::len));
    let failed = text.starts_with("error: ");
    Ok(Said { text, failed })
}

/// Reads until the last thing said is one of these, or nothing more comes.
async fn hear(
    stream: &mut (impl AsyncRead + Unpin),
    heard: &mut Vec<u8>,
    ends: &[&str],
) -> io::Result<String> {
    heard.clear();
    loop {
        let is_end = |end: &&str| {
            // A prompt stands at the beginning of a line.
            let before = heard.strip_suffix(end.as_bytes());
            before.is_some_and(|before| before.is_empty() || before.ends_with(b"\n"))
        };
        if ends.iter().any(is_end) {
            break;
        }
        if heard.len() > LONGEST {
            return Err(io::Error::other("an answer without an end"));
        }
        if stream.read_buf(heard).await? == 0 {
            break;
        }
    }
    if heard.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(heard).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A console that says these things, each after a line of ours.
    async fn with(said: &[&str]) -> io::Result<(Said, String)> {
        let (mut theirs, ours) = tokio::io::duplex(4096);
        let said: Vec<String> = said.iter().map(ToString::to_string).collect();
        let console = tokio::spawn(async move {
            let mut lines = String::new();
            for text in said {
                theirs.write_all(text.as_bytes()).await.unwrap();
                let mut line = vec![0; 256];
                let read = theirs.read(&mut line).await.unwrap();
                lines.push_str(std::str::from_utf8(&line[..read]).unwrap());
            }
            lines
        });
        let said = converse(ours, Some(&Secret::new("s3cret")), "show nodes").await?;
        Ok((said, console.await.unwrap()))
    }

    #[tokio::test]
    async fn a_command_goes_in_and_its_answer_comes_out() {
        let hello = "Spillway 1 console. Type help.\n";
        let (said, heard) =
            with(&[&format!("{hello}spillway> "), "a spillway> b\nspillway> "]).await.unwrap();
        assert_eq!((said.text.as_str(), said.failed), ("a spillway> b\n", false));
        assert_eq!(heard, "show nodes\n");
        let door = format!("{hello}password: ");
        let (said, heard) = with(&[&door, "ok\nspillway> ", "error: no\nspillway> "]).await.unwrap();
        assert_eq!((said.text.as_str(), said.failed), ("error: no\n", true));
        assert_eq!(heard, "s3cret\nshow nodes\n");
        let refused = with(&[&door, "error: wrong password\npassword: "]).await.unwrap_err().to_string();
        assert!(refused.contains("password") && !refused.contains("s3cret"), "{refused}");
    }
}
