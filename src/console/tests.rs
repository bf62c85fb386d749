use tokio::net::UnixStream;

use super::*;
use crate::control::tests::{Rig, SECRET, rig};

/// The far end of a console.
struct Terminal(UnixStream);

const QUICK: Manners = Manners { wrong_password: Duration::ZERO, ..MANNERS };

fn open(rig: &Rig, entrance: Entrance, manners: Manners) -> Terminal {
    let (near, far) = UnixStream::pair().unwrap();
    let client = ClientAddr::Unix { uid: Some(1) };
    tokio::spawn(attend(Stream::Unix(near), client, entrance, Arc::clone(&rig.control), manners));
    Terminal(far)
}

impl Terminal {
    /// What is printed up to `end`, or up to the end of the conversation.
    async fn until(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(end.as_bytes()) {
            let read = timeout(Duration::from_secs(5), self.0.read(&mut byte)).await.expect("in time");
            match read {
                Ok(1) => text.push(byte[0]),
                _ => break,
            }
        }
        String::from_utf8(text).unwrap()
    }

    async fn ask(&mut self, line: &str) -> String {
        self.0.write_all(line.as_bytes()).await.unwrap();
        self.until(PROMPT).await
    }
}

#[tokio::test]
async fn the_password_opens_the_console() {
    let rig = rig();
    let mut terminal = open(&rig, Entrance::Password, QUICK);
    let greeting = terminal.until("password: ").await;
    assert!(greeting.starts_with("Spillway "), "{greeting}");
    let answer = terminal.ask(&format!("{SECRET}\r\n")).await;
    assert_eq!(answer, format!("ok\n{PROMPT}"));
    assert!(terminal.ask("show nodes\n").await.contains("db1"));
}

#[tokio::test]
async fn three_wrong_passwords_close_it() {
    let rig = rig();
    let mut terminal = open(&rig, Entrance::Password, QUICK);
    terminal.0.write_all(b"show nodes\nopen\nopen-sesam\n").await.unwrap();
    let text = terminal.until("never").await;
    assert_eq!(text.matches("error: wrong password").count(), 3, "{text}");
    assert!(!text.contains("db1") && !text.contains(PROMPT), "{text}");
}

#[tokio::test]
async fn commands_are_understood_behind_telnets_negotiation() {
    let rig = rig();
    let mut terminal = open(&rig, Entrance::Known, QUICK);
    terminal.until(PROMPT).await;
    terminal.0.write_all(&[255, 253, 3, 255, 251, 24]).await.unwrap();
    assert!(terminal.ask("show version\r\n").await.contains(VERSION));
}

#[tokio::test]
async fn an_operator_sees_and_changes_nodes_and_sessions() {
    let rig = rig();
    let session = rig.session();
    let mut terminal = open(&rig, Entrance::Known, QUICK);
    terminal.until(PROMPT).await;
    let help = terminal.ask("help\n").await;
    for operation in crate::control::OPERATIONS {
        assert!(help.contains(&operation.name()), "{help}");
    }
    terminal.ask("set node shop db1 drain\n").await;
    assert!(terminal.ask("show nodes\n").await.contains("drain"));
    assert!(terminal.ask("show sessions\n").await.contains("127.0.0.9:5000"));
    terminal.ask(&format!("kill session {}\n", session.entry.id.0)).await;
    timeout(Duration::from_secs(5), session.entry.ended()).await.unwrap();
    assert!(terminal.ask("shwo\n").await.starts_with("error: "));
    terminal.0.write_all(b"quit\n").await.unwrap();
    terminal.until("never").await;
    assert_eq!(terminal.0.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_line_without_end_is_refused_and_forgotten() {
    let rig = rig();
    let mut terminal = open(&rig, Entrance::Known, QUICK);
    terminal.until(PROMPT).await;
    let long = "x".repeat(lines::LONGEST + 100) + "\n";
    assert!(terminal.ask(&long).await.starts_with("error: the line is longer"));
    assert!(terminal.ask("show version\n").await.contains(VERSION));
}

#[tokio::test(start_paused = true)]
async fn a_silent_console_is_closed() {
    let rig = rig();
    let mut terminal = open(&rig, Entrance::Known, QUICK);
    let mut text = String::new();
    // The clock runs on by itself while everybody waits.
    timeout(Duration::from_mins(11), terminal.0.read_to_string(&mut text)).await.unwrap().unwrap();
    assert!(text.contains("nothing was typed"), "{text}");
}
