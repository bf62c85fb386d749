use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::operation::{Kind, Method, Shape};
use super::*;
use crate::session::registry::{Ending, Registered};
use crate::topology::{Desired, Observed, Topology};

/// The console's password and the API's token in [`Rig`].
pub(crate) const SECRET: &str = "open-sesame";

/// A control with one cluster of two nodes and nothing behind it.
pub(crate) struct Rig {
    pub(crate) control: Arc<Control>,
    pub(crate) reloads: mpsc::Receiver<ReloadConfig>,
    pub(crate) state_file: PathBuf,
    _directory: TempDir,
}

fn config() -> Config {
    let text = format!(
        r#"
        [cluster.shop]
        kind = "galera"
        nodes = {{ db1 = "127.0.0.1:1001", db2 = "127.0.0.1:1002" }}
        monitor = {{ user = "m", password = "p" }}
        [service.app]
        listen = ["127.0.0.1:4000"]
        route = "cluster:shop"
        [admin]
        console = ["127.0.0.1:4001"]
        api = ["127.0.0.1:4002"]
        password = "{SECRET}"
        token = "{SECRET}"
        "#
    );
    Config::parse(&text, Path::new("t.toml"), &|_| None).expect("valid")
}

pub(crate) fn rig() -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let state_file = directory.path().join("state.json");
    let config = config();
    let (accounts, _requests) = AccountStore::new();
    let (reload, reloads) = mpsc::channel(1);
    let topology = Arc::new(TopologyStore::new(Topology::new(&config)));
    topology.observe(&"shop".parse().unwrap(), &"db1".parse().unwrap(), Observed::up(true, true, "Synced"));
    let lifecycle = Lifecycle::default();
    lifecycle.advance(crate::lifecycle::Phase::Serving);
    let listening = ListenerStatus {
        address: "127.0.0.1:4000".into(),
        service: "app".parse().unwrap(),
        state: "listening",
    };
    let config = Arc::new(ArcSwap::from_pointee(config));
    let metrics = Arc::new(Metrics::new("test"));
    let registry = Arc::new(Registry::default());
    let handover = Handover::new(
        Arc::clone(&config),
        Arc::clone(&topology),
        Arc::clone(&metrics),
        Arc::new(KeptHandovers { file: StateFile::load(None).unwrap(), topology: Arc::clone(&topology) }),
        Arc::new(RunningSessions {
            registry: Arc::clone(&registry),
            topology: Arc::clone(&topology),
            config: Arc::clone(&config),
        }),
    );
    let control = Control {
        topology,
        registry,
        gates: Arc::default(),
        account_counts: Arc::default(),
        failed: Arc::default(),
        held: Arc::default(),
        names: Names::new(tokio::runtime::Handle::current()),
        accounts: Arc::new(accounts),
        config,
        metrics,
        lifecycle,
        reload,
        listeners: Arc::new(ArcSwap::from_pointee(vec![listening])),
        state_file: StateFile::load(Some(state_file.clone())).unwrap(),
        handover,
    };
    Rig { control: Arc::new(control), reloads, state_file, _directory: directory }
}

impl Rig {
    pub(crate) fn session(&self) -> Registered {
        let client = crate::ids::ClientAddr::Tcp("127.0.0.9:5000".parse().unwrap());
        self.control.registry.register(client, "app".parse().unwrap())
    }

    async fn run(&self, line: &str) -> Result<Answer, OperationError> {
        let caller = Caller { name: "test".into(), right: Right::Write };
        self.control.run(&caller, &Invocation::parse(line)?.expect("a command")).await
    }

    fn desired(&self, node: &str) -> Desired {
        self.control.topology.load().cluster("shop").unwrap().node(node).unwrap().desired
    }
}

#[test]
fn every_operation_is_said_in_one_way_only() {
    let mut words = BTreeSet::new();
    let mut requests = BTreeSet::new();
    for operation in OPERATIONS {
        let name = operation.name();
        assert!(operation.help.len() > 10 && !operation.help.contains('\n'), "{name} has no help");
        assert!(words.insert(operation.words), "{name} is there twice");
        let optional = operation.arguments.iter().skip_while(|a| a.required);
        assert!(optional.clone().all(|a| !a.required), "{name}: optional arguments come last");
        for argument in operation.arguments {
            assert!(!argument.help.is_empty(), "{name}: {} has no help", argument.name);
        }
        let Some(http) = operation.http else {
            assert_eq!(operation.result, Shape::Console, "{name} is for the console only");
            continue;
        };
        assert!(requests.insert((http.method, http.path, http.selector)), "{name}: same request twice");
        for placeholder in http.placeholders() {
            let argument = operation.arguments.iter().find(|a| a.name == placeholder);
            assert!(argument.is_some_and(|a| a.required), "{name}: {{{placeholder}}} is no argument");
        }
        let changes = http.method != Method::Get;
        assert_eq!(changes, operation.right == Right::Write, "{name}: the right does not fit the method");
    }
}

#[tokio::test]
async fn every_reading_operation_answers() {
    let rig = rig();
    for operation in OPERATIONS.iter().filter(|o| o.right == Right::Read) {
        let mut line = operation.name();
        for argument in operation.arguments.iter().filter(|a| a.required) {
            line.push(' ');
            line.push_str(match argument.kind {
                Kind::Cluster => "shop",
                Kind::Node => "db1",
                _ if argument.name == "address" => "192.0.2.7",
                _ => "app",
            });
        }
        assert!(rig.run(&line).await.is_ok(), "{line}");
    }
}

#[tokio::test]
async fn a_reader_may_not_write() {
    let rig = rig();
    let caller = Caller { name: "reader".into(), right: Right::Read };
    let wanted = Invocation::parse("set node shop db1 drain").unwrap().unwrap();
    assert_eq!(rig.control.run(&caller, &wanted).await.unwrap_err().code, Code::Forbidden);
    assert_eq!(rig.desired("db1"), Desired::Enabled);
}

#[tokio::test]
async fn what_is_wanted_of_a_node_survives_a_restart() {
    let rig = rig();
    rig.run("set node shop db1 drain").await.unwrap();
    rig.run("set node shop db2 maintenance").await.unwrap();
    rig.run("set node shop db2 enabled").await.unwrap();
    let text = std::fs::read_to_string(&rig.state_file).unwrap();
    assert!(text.contains("db1") && !text.contains("db2"), "{text}");
    let restarted = TopologyStore::new(Topology::new(&config()));
    StateFile::load(Some(rig.state_file.clone())).unwrap().apply(&restarted);
    let topology = restarted.load();
    assert_eq!(topology.cluster("shop").unwrap().node("db1").unwrap().desired, Desired::Drain);
}

#[tokio::test]
async fn a_wish_that_cannot_be_kept_changes_nothing() {
    let rig = rig();
    std::fs::create_dir(&rig.state_file).unwrap();
    let refused = rig.run("set node shop db1 drain").await.unwrap_err();
    assert_eq!(refused.code, Code::Conflict, "{refused}");
    assert_eq!(rig.desired("db1"), Desired::Enabled);
}

#[test]
fn a_damaged_state_file_is_not_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.json");
    for text in ["", "{", r#"{"version":2,"nodes":{}}"#, r#"{"version":1,"nodes":{"shop":{"db1":"off"}}}"#] {
        std::fs::write(&path, text).unwrap();
        assert!(StateFile::load(Some(path.clone())).is_err(), "{text:?}");
    }
}

#[tokio::test]
async fn a_killed_session_is_asked_to_end() {
    let rig = rig();
    let session = rig.session();
    rig.run(&format!("kill session {}", session.entry.id.0)).await.unwrap();
    assert_eq!(session.entry.ended().await, Ending::Killed);
    assert_eq!(rig.run("kill session 4711").await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn a_reload_gives_what_changed_or_what_is_wrong() {
    let mut rig = rig();
    let control = Arc::clone(&rig.control);
    let caller = Caller { name: "test".into(), right: Right::Write };
    let ask = async {
        let wanted = Invocation::parse("reload config").unwrap().unwrap();
        (control.run(&caller, &wanted).await, control.run(&caller, &wanted).await)
    };
    let serve = async {
        rig.reloads.recv().await.unwrap().send(Ok(vec!["node db3 added".into()])).unwrap();
        rig.reloads.recv().await.unwrap().send(Err("t.toml:1: wrong".into())).unwrap();
    };
    let ((good, bad), ()) = tokio::join!(ask, serve);
    assert!(serde_json::to_string(&good.unwrap()).unwrap().contains("node db3 added"));
    let bad = bad.unwrap_err();
    assert_eq!(bad.code, Code::InvalidConfiguration);
    assert!(bad.message.contains("wrong") || bad.details.iter().any(|d| d.contains("wrong")), "{bad:?}");
}

#[tokio::test]
async fn wrong_lines_get_a_hint() {
    let rig = rig();
    for (line, hint) in [
        ("shwo nodes", "show"),
        ("set node shop db1 off", "enabled"),
        ("set node shop", "NODE"),
        ("set node shop db9 drain", "show nodes"),
        ("set node nowhere db1 drain", "shop"),
        ("kill session all", "number"),
    ] {
        let refused = rig.run(line).await.unwrap_err();
        assert!(refused.message.contains(hint), "{line}: {refused}");
    }
}

#[test]
fn a_word_argument_lists_its_words() {
    for argument in OPERATIONS.iter().flat_map(|o| o.arguments) {
        if let Kind::Word(words) = argument.kind {
            assert!(words.iter().all(|w| argument.kind.expected().contains(w)), "{}", argument.name);
        }
    }
}

proptest! {
    #[test]
    fn no_line_panics(line in "\\PC{0,80}") {
        let _ = Invocation::parse(&line);
    }
}
