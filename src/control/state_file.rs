//! What operators want of nodes and who the writers are, kept in a small file that survives a restart.
//!
//! The file is a JSON object, `{"version": 1, "nodes": {"shop": {"db1": "drain"}}, "writers": {"shop": "db2"}}`; nodes
//! that are simply enabled are not in it. While a planned change of a writer runs, `handovers` names it. The file is always replaced as a whole: written beside itself, synced, and renamed, so that a crash at
//! any moment leaves the old file or the new one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::handover::{Begun, Keeper};
use crate::ids::{ClusterName, NodeName};
use crate::topology::{Cluster, Desired, Topology, TopologyStore};

/// The largest state file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The form of the file that this Spillway writes and reads.
const VERSION: u32 = 1;

/// The last writer of each cluster.
type Writers = BTreeMap<ClusterName, NodeName>;

/// The changes of writers that were begun and have not ended.
type Handovers = BTreeMap<ClusterName, Begun>;

type DesiredStates = BTreeMap<ClusterName, BTreeMap<NodeName, Desired>>;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    nodes: DesiredStates,
    #[serde(default)]
    writers: Writers,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    handovers: Handovers,
}

/// What the file has that the topology does not tell.
#[derive(Debug)]
struct Kept {
    writers: Writers,
    handovers: Handovers,
}

/// The state file can not be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct StateFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Why a wish was not taken. Nothing has changed.
#[derive(Debug)]
pub(super) enum NotKept {
    /// There is no such node (any more).
    NoSuchNode,
    /// The file could not be written.
    File(StateFileError),
}

/// The file, or nothing where none is configured. Clones are the same file.
#[derive(Debug, Clone)]
pub struct StateFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: Option<PathBuf>,
    found: Content,
    /// The clusters' writers and what is under way there, as the file has them. Its lock puts those who write in line, so that the file and the
    /// topology tell the same story.
    writing: Mutex<Kept>,
}

impl StateFile {
    /// Reads the file. One that is missing is empty; without a path nothing is kept.
    ///
    /// # Errors
    /// The file can not be read or does not hold what it should. It is not ignored then, because a node in
    /// maintenance must not serve clients only because a file was damaged.
    pub fn load(path: Option<PathBuf>) -> Result<Self, StateFileError> {
        let found = match &path {
            Some(path) => read(path).map_err(|reason| StateFileError { path: path.clone(), reason })?,
            None => Content::default(),
        };
        let kept = Kept { writers: found.writers.clone(), handovers: found.handovers.clone() };
        Ok(Self(Arc::new(Inner { path, found, writing: Mutex::new(kept) })))
    }

    /// Gives the states that were read to the nodes. A node that is not configured is left out with a warning, and
    /// is no longer in the file when it is written again.
    pub fn apply(&self, topology: &TopologyStore) {
        for (cluster, nodes) in &self.0.found.nodes {
            for (node, desired) in nodes {
                let state = desired.as_str();
                if topology.set_desired(cluster.as_str(), node.as_str(), *desired).is_some() {
                    info!(%cluster, %node, state, "state kept from before");
                } else if topology.wish_for_guest(cluster, node, *desired) {
                    info!(%cluster, %node, state, "state kept from before for a node that may be discovered");
                } else {
                    warn!(%cluster, %node, state, "the state file names a node that is not configured");
                }
            }
        }
        for (cluster, node) in &self.0.found.writers {
            if !topology.recall_writer(cluster, node) {
                warn!(%cluster, %node, "the state file names a writer that is not configured");
            }
        }
    }

    /// Keeps the clusters' writers in the file as they change, for ever.
    pub async fn follow(self, topology: Arc<TopologyStore>) -> Infallible {
        let mut changes = topology.subscribe();
        loop {
            if self.keeps() && self.is_behind(&topology) {
                let (file, topology) = (self.clone(), Arc::clone(&topology));
                let kept = tokio::task::spawn_blocking(move || file.keep_writers(&topology)).await;
                if let Ok(Err(e)) = kept {
                    warn!(error = %e, "the clusters' writers can not be kept; a restart may choose others");
                }
            }
            if changes.changed().await.is_err() {
                // The store outlives this task, which holds it.
                std::future::pending::<()>().await;
            }
        }
    }

    fn is_behind(&self, topology: &TopologyStore) -> bool {
        self.0.writing.lock().unwrap_or_else(PoisonError::into_inner).writers != writers(&topology.load())
    }

    /// Writes the file if it has other writers. Blocks on the file.
    fn keep_writers(&self, topology: &TopologyStore) -> Result<(), StateFileError> {
        let mut kept = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = topology.load();
        if kept.writers == writers(&now) {
            return Ok(());
        }
        self.write(wishes(&now), writers(&now), &mut kept)
    }

    /// Replaces the file, if there is one.
    fn write(
        &self,
        mut nodes: DesiredStates,
        writers: Writers,
        kept: &mut Kept,
    ) -> Result<(), StateFileError> {
        let Some(path) = &self.0.path else { return Ok(()) };
        for of in nodes.values_mut() {
            of.retain(|_, wish| *wish != Desired::Enabled);
        }
        nodes.retain(|_, of| !of.is_empty());
        let content = Content { version: VERSION, nodes, writers, handovers: kept.handovers.clone() };
        write(path, &content).map_err(|e| StateFileError { path: path.clone(), reason: e.to_string() })?;
        kept.writers = content.writers;
        Ok(())
    }

    /// Whether states survive a restart.
    pub fn keeps(&self) -> bool {
        self.0.path.is_some()
    }

    /// Writes the wish to the file, then gives it to the node. Returns what was wanted before. Blocks on the file.
    pub(super) fn set(
        &self,
        topology: &TopologyStore,
        cluster: &str,
        node: &str,
        desired: Desired,
    ) -> Result<Desired, NotKept> {
        let mut kept = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = topology.load();
        let known = now.cluster(cluster).and_then(|c| Some((c, c.node(node)?)));
        let (in_cluster, found) = known.ok_or(NotKept::NoSuchNode)?;
        let before = found.desired;
        let mut nodes = wishes(&now);
        nodes.entry(in_cluster.name.clone()).or_default().insert(found.name.clone(), desired);
        self.write(nodes, writers(&now), &mut kept).map_err(NotKept::File)?;
        match topology.set_desired(cluster, node, desired) {
            Some(_) => Ok(before),
            None => Err(NotKept::NoSuchNode),
        }
    }
}

/// The file as it keeps changes of writers, with the topology that the rest of the file is about.
#[derive(Debug, Clone)]
pub struct KeptHandovers {
    /// The file.
    pub file: StateFile,
    /// The clusters as they are.
    pub topology: Arc<TopologyStore>,
}

impl KeptHandovers {
    fn change(&self, change: impl FnOnce(&mut Handovers)) -> Result<(), String> {
        let mut kept = self.file.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.handovers.clone();
        change(&mut kept.handovers);
        if kept.handovers == before {
            return Ok(());
        }
        let now = self.topology.load();
        self.file.write(wishes(&now), writers(&now), &mut kept).map_err(|e| {
            kept.handovers = before;
            e.to_string()
        })
    }
}

impl Keeper for KeptHandovers {
    fn begun(&self, cluster: &ClusterName, begun: &Begun) -> Result<(), String> {
        self.change(|handovers| drop(handovers.insert(cluster.clone(), begun.clone())))
    }

    fn ended(&self, cluster: &ClusterName, begun: &Begun) -> Result<(), String> {
        self.change(|handovers| handovers.retain(|name, kept| name != cluster || kept != begun))
    }

    fn found(&self) -> Vec<(ClusterName, Begun)> {
        self.file.0.found.handovers.clone().into_iter().collect()
    }
}

/// What is wanted of every node now.
fn wishes(topology: &Topology) -> DesiredStates {
    let of = |cluster: &Cluster| {
        let absent = cluster.guests.iter().flat_map(|guests| guests.wishes.clone());
        absent.chain(cluster.nodes.iter().map(|n| (n.name.clone(), n.desired))).collect::<BTreeMap<_, _>>()
    };
    topology.clusters.iter().map(|(name, cluster)| (name.clone(), of(cluster))).collect()
}

/// The last writer of every cluster that had one.
fn writers(topology: &Topology) -> Writers {
    let last = |(name, cluster): (&ClusterName, &Arc<Cluster>)| {
        Some((name.clone(), cluster.leadership.agreed.clone()?))
    };
    topology.clusters.iter().filter_map(last).collect()
}

fn read(path: &Path) -> Result<Content, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Content::default()),
        Err(e) => return Err(e.to_string()),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("it is larger than {MAX_FILE} bytes"));
    }
    let content: Content = serde_json::from_str(&text).map_err(|e| format!("not a state file: {e}"))?;
    if content.version != VERSION {
        return Err(format!("it has version {}, and this Spillway reads version {VERSION}", content.version));
    }
    Ok(content)
}

fn write(path: &Path, content: &Content) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(content)?;
    text.push(b'\n');
    let mut name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let written = write_synced(&beside, &text).and_then(|()| fs::rename(&beside, path));
    if let Err(e) = written {
        // Whatever stands beside the file is half-written; the reason of the failure is worth more than another.
        let _ = fs::remove_file(&beside);
        return Err(e);
    }
    // The new file is in place. Should its name be lost with the power now, the old file is back, which is whole.
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Err(e) = File::open(folder).and_then(|folder| folder.sync_all()) {
        warn!(folder = %folder.display(), error = %e, "the folder of the state file could not be synced");
    }
    Ok(())
}

fn write_synced(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn topology() -> TopologyStore {
        let text = r#"
            [cluster.shop]
            kind = "galera"
            nodes = { db1 = "127.0.0.1:1001", db2 = "127.0.0.1:1002" }
            monitor = { user = "m", password = "p" }
            [service.app]
            listen = ["127.0.0.1:4000"]
            route = "cluster:shop"
        "#;
        let config = Config::parse(text, Path::new("test.toml"), &|_| None).expect("valid configuration");
        TopologyStore::new(Topology::new(&config))
    }

    fn desired(topology: &TopologyStore, node: &str) -> Desired {
        topology.load().cluster("shop").unwrap().node(node).unwrap().desired
    }

    #[test]
    fn a_change_that_was_begun_is_found_until_it_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let load = || {
            let file = StateFile::load(Some(path.clone())).unwrap();
            KeptHandovers { file, topology: Arc::new(topology()) }
        };
        let shop: ClusterName = "shop".parse().unwrap();
        let begun = Begun { old: "db1".parse().unwrap(), new: "db2".parse().unwrap(), at: 1_700_000_000 };
        let first = load();
        first.begun(&shop, &begun).unwrap();
        // Whatever else is written meanwhile leaves it there.
        first.file.set(&first.topology, "shop", "db2", Desired::Drain).unwrap();
        let second = load();
        second.file.apply(&second.topology);
        assert_eq!(second.found(), [(shop.clone(), begun.clone())]);
        // One that began later is another one.
        second.ended(&shop, &Begun { at: begun.at - 1, ..begun.clone() }).unwrap();
        assert_eq!(load().found(), [(shop.clone(), begun.clone())]);
        second.ended(&shop, &begun).unwrap();
        assert!(load().found().is_empty());
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("handovers") && text.contains("drain"), "{text}");
        // Without a file nothing is kept, and nothing fails.
        let nowhere = KeptHandovers { file: StateFile::load(None).unwrap(), topology: Arc::new(topology()) };
        nowhere
            .begun(&shop, &Begun { old: "db1".parse().unwrap(), new: "db2".parse().unwrap(), at: 0 })
            .unwrap();
    }

    #[test]
    fn what_was_set_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let before = topology();
        let file = StateFile::load(Some(path.clone())).unwrap();
        file.set(&before, "shop", "db1", Desired::Drain).unwrap();
        file.set(&before, "shop", "db2", Desired::Maintenance).unwrap();
        let was = file.set(&before, "shop", "db1", Desired::Enabled).unwrap();
        assert_eq!((was, desired(&before, "db1")), (Desired::Drain, Desired::Enabled));

        let after = topology();
        StateFile::load(Some(path.clone())).unwrap().apply(&after);
        assert_eq!(
            (desired(&after, "db1"), desired(&after, "db2")),
            (Desired::Enabled, Desired::Maintenance)
        );
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["state.json"], "nothing is left beside the file");
    }

    #[test]
    fn the_writers_are_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let see = |topology: &TopologyStore, node: &str| {
            let up = crate::topology::Observed::up(true, true, "Synced");
            topology.observe(&"shop".parse().unwrap(), &node.parse().unwrap(), up);
        };
        let writer = |topology: &TopologyStore| {
            topology.load().cluster("shop").unwrap().writer().map(|node| node.name.to_string())
        };
        let before = topology();
        let file = StateFile::load(Some(path.clone())).unwrap();
        see(&before, "db1");
        see(&before, "db2");
        before.set_writer("shop", "db2").unwrap();
        assert!(file.is_behind(&before));
        file.keep_writers(&before).unwrap();
        assert!(!file.is_behind(&before));
        file.set(&before, "shop", "db1", Desired::Drain).unwrap();
        file.set(&before, "shop", "db1", Desired::Enabled).unwrap();

        let after = topology();
        StateFile::load(Some(path)).unwrap().apply(&after);
        see(&after, "db1");
        assert_eq!(writer(&after), None, "db2 may still be there");
        see(&after, "db2");
        assert_eq!(writer(&after).as_deref(), Some("db2"));
    }

    #[test]
    fn a_file_without_writers_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        fs::write(&path, r#"{"version": 1, "nodes": {"shop": {"db1": "drain"}}}"#).unwrap();
        let topology = topology();
        StateFile::load(Some(path)).unwrap().apply(&topology);
        assert_eq!(desired(&topology, "db1"), Desired::Drain);
    }

    #[test]
    fn a_file_that_can_not_be_written_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("state.json");
        let topology = topology();
        let file = StateFile::load(Some(path)).unwrap();
        let refused = file.set(&topology, "shop", "db1", Desired::Drain);
        assert!(matches!(refused, Err(NotKept::File(_))));
        assert_eq!(desired(&topology, "db1"), Desired::Enabled);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let topology = topology();
        let file = StateFile::load(Some(path.clone())).unwrap();
        file.set(&topology, "shop", "db1", Desired::Drain).unwrap();
        let old = fs::read_to_string(&path).unwrap();
        // A folder stands where the new file is to be written.
        fs::create_dir(folder.path().join("state.json.new")).unwrap();
        assert!(matches!(file.set(&topology, "shop", "db2", Desired::Drain), Err(NotKept::File(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), old);
        assert_eq!(
            (desired(&topology, "db1"), desired(&topology, "db2")),
            (Desired::Drain, Desired::Enabled)
        );
    }

    #[test]
    fn a_half_written_neighbour_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        fs::write(folder.path().join("state.json.new"), "{\"version\": 1, \"no").unwrap();
        let file = StateFile::load(Some(path.clone())).unwrap();
        file.set(&topology(), "shop", "db1", Desired::Drain).unwrap();
        assert!(StateFile::load(Some(path)).is_ok());
    }

    #[test]
    fn a_damaged_file_is_refused_and_an_unknown_node_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        for damaged in [
            "",
            "{",
            "[]",
            r#"{"version":2,"nodes":{}}"#,
            r#"{"version":1,"nodes":{"shop":{"db1":"asleep"}}}"#,
            r#"{"version":1,"nodes":{"no name":{}}}"#,
            r#"{"version":1,"nodes":{},"more":1}"#,
        ] {
            fs::write(&path, damaged).unwrap();
            assert!(StateFile::load(Some(path.clone())).is_err(), "{damaged}");
        }
        fs::write(
            &path,
            r#"{"version":1,"nodes":{"shop":{"gone":"drain","db2":"drain"},"old":{"x":"drain"}}}"#,
        )
        .unwrap();
        let topology = topology();
        let file = StateFile::load(Some(path.clone())).unwrap();
        file.apply(&topology);
        assert_eq!(desired(&topology, "db2"), Desired::Drain);
        file.set(&topology, "shop", "db1", Desired::Maintenance).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("db2") && !text.contains("gone") && !text.contains("old"), "{text}");
    }

    #[test]
    fn without_a_path_a_wish_lasts_as_long_as_the_process() {
        let topology = topology();
        let file = StateFile::load(None).unwrap();
        file.set(&topology, "shop", "db1", Desired::Drain).unwrap();
        assert_eq!(desired(&topology, "db1"), Desired::Drain);
        assert!(matches!(file.set(&topology, "shop", "db9", Desired::Drain), Err(NotKept::NoSuchNode)));
        assert!(!file.keeps());
    }
}
