//! Sets of servers: a Galera cluster of three nodes, and a GTID primary with one replica.

use super::server::Server;
use super::{Outcome, workspace};
use std::path::Path;
use std::time::Duration;

/// How long a node may take to join; the state transfer copies a whole data directory.
const JOIN_LIMIT: Duration = Duration::from_secs(90);

const SYNCED: &str = "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS \
                      WHERE VARIABLE_NAME = 'WSREP_LOCAL_STATE_COMMENT'";
const CLUSTER_SIZE: &str =
    "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'WSREP_CLUSTER_SIZE'";

/// Where packages put the Galera library.
const LIBRARIES: [&str; 5] = [
    "/usr/lib/galera/libgalera_smm.so",
    "/usr/lib/x86_64-linux-gnu/galera/libgalera_smm.so",
    "/usr/lib/aarch64-linux-gnu/galera/libgalera_smm.so",
    "/usr/lib64/galera-4/libgalera_smm.so",
    "/usr/lib/libgalera_smm.so",
];

/// A Galera cluster.
pub(crate) struct Galera {
    /// The nodes, the one that founded the cluster first.
    pub(crate) nodes: Vec<Server>,
}

impl Galera {
    /// Starts three nodes: the first founds the cluster, the others join it at the same time. A node that died is
    /// noticed by the others within about a second.
    pub(crate) fn start(name: &str, options: &[&str]) -> Outcome<Self> {
        let prepare = |number: usize| Server::prepare(&format!("{name}{number}"), options);
        Self::found(name, (1..=3).map(prepare).collect::<Outcome<_>>()?, 1)
    }

    /// The same with servers that are prepared already. `suspect`: the seconds of silence after which nodes take another
    /// one for dead.
    pub(crate) fn found(name: &str, mut nodes: Vec<Server>, suspect: u8) -> Outcome<Self> {
        let library =
            LIBRARIES.iter().find(|path| Path::new(path).exists()).ok_or("no Galera library here")?;
        let mut group_ports = Vec::new();
        for _ in &nodes {
            group_ports.push(workspace::free_port()?);
        }
        let group: Vec<String> =
            nodes.iter().zip(&group_ports).map(|(node, port)| format!("{}:{port}", node.host)).collect();
        for (node, port) in nodes.iter_mut().zip(&group_ports) {
            // On one machine every node needs each of its ports for itself. A node that died is noticed after the
            // suspect time-out, and this must be longer than the keep-alive period.
            let (host, ist) = (node.host, workspace::free_port()?);
            let provider = format!(
                "base_port={port};gmcast.listen_addr=tcp://{host}:{port};ist.recv_addr={host}:{ist};\
                 gcache.size=64M;gcs.fc_limit=64;evs.keepalive_period=PT0.3S;evs.inactive_check_period=PT0.2S;\
                 evs.suspect_timeout=PT{suspect}S;evs.inactive_timeout=PT{}S;evs.install_timeout=PT{}S;\
                 pc.recovery=false",
                suspect + 2,
                suspect + 2
            );
            let receive = workspace::free_port()?;
            for option in [
                "--wsrep-on=ON".to_owned(),
                format!("--wsrep-provider={library}"),
                format!("--wsrep-provider-options={provider}"),
                format!("--wsrep-cluster-name={name}"),
                format!("--wsrep-cluster-address=gcomm://{}", group.join(",")),
                format!("--wsrep-node-name={}", node.name),
                format!("--wsrep-node-address={host}:{port}"),
                format!("--wsrep-node-incoming-address={}", node.address()),
                "--wsrep-sst-method=rsync".to_owned(),
                format!("--wsrep-sst-receive-address={host}:{receive}"),
                "--binlog-format=ROW".to_owned(),
                "--innodb-autoinc-lock-mode=2".to_owned(),
                "--default-storage-engine=InnoDB".to_owned(),
            ] {
                node.option(option);
            }
            node.option(format!("--server-id={port}"));
        }
        let mut galera = Self { nodes };
        galera.nodes[0].start(&["--wsrep-new-cluster"])?;
        galera.wait_synced(0)?;
        for node in &mut galera.nodes[1..] {
            node.launch(&[])?;
        }
        for number in 1..galera.nodes.len() {
            galera.wait_synced(number)?;
        }
        galera.wait_size(3)?;
        Ok(galera)
    }

    /// Waits until a node is up and Synced.
    pub(crate) fn wait_synced(&mut self, number: usize) -> Outcome<()> {
        self.nodes[number].wait_until_up(JOIN_LIMIT)?;
        self.nodes[number].wait_sql(SYNCED, "Synced", JOIN_LIMIT)
    }

    /// Waits until every running node sees a primary component of `size` nodes.
    pub(crate) fn wait_size(&self, size: usize) -> Outcome<()> {
        for node in self.nodes.iter().filter(|node| node.pid().is_some()) {
            node.wait_sql(CLUSTER_SIZE, &size.to_string(), JOIN_LIMIT)?;
        }
        Ok(())
    }

    /// Starts a node again that was killed or stopped; it fetches what it missed from another one.
    pub(crate) fn rejoin(&mut self, number: usize) -> Outcome<()> {
        self.nodes[number].launch(&[])?;
        self.wait_synced(number)
    }

    /// `{ a1 = "127.0.0.1:1", … }` for the configuration.
    pub(crate) fn toml_nodes(&self) -> String {
        toml_nodes(&self.nodes)
    }
}

/// A primary and its replica, joined by GTID.
pub(crate) struct Replication {
    /// The primary first, then the replica.
    pub(crate) nodes: Vec<Server>,
}

impl Replication {
    /// Starts both; the replica is read-only and has caught up when this returns.
    pub(crate) fn start(name: &str, options: &[&str]) -> Outcome<Self> {
        let mut nodes = Vec::new();
        for (role, read_only) in [("primary", "--read-only=0"), ("replica", "--read-only=1")] {
            let mut server = Server::prepare(&format!("{name}-{role}"), options)?;
            server.option(format!("--server-id={}", server.port));
            for option in ["--log-bin=binlog", "--log-slave-updates=1", "--gtid-strict-mode=1", read_only] {
                server.option(option.to_owned());
            }
            server.launch(&[])?;
            nodes.push(server);
        }
        for node in &mut nodes {
            node.wait_until_up(Duration::from_mins(1))?;
        }
        nodes[0].sql(
            "CREATE USER 'replication'@'%' IDENTIFIED BY 'replication-secret';\
             GRANT REPLICATION SLAVE ON *.* TO 'replication'@'%'",
        )?;
        nodes[1].sql(&format!(
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='replication',\
             MASTER_PASSWORD='replication-secret', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1;\
             START SLAVE",
            nodes[0].port
        ))?;
        let replication = Self { nodes };
        replication.wait_caught_up()?;
        Ok(replication)
    }

    /// Waits until the replica has applied all that the primary has written so far.
    pub(crate) fn wait_caught_up(&self) -> Outcome<()> {
        let position = self.nodes[0].sql("SELECT @@gtid_binlog_pos")?;
        self.nodes[1].wait_sql("SELECT @@gtid_slave_pos", &position, Duration::from_secs(30))
    }

    /// `{ name = "127.0.0.1:1", … }` for the configuration.
    pub(crate) fn toml_nodes(&self) -> String {
        toml_nodes(&self.nodes)
    }
}

/// `{ name = "127.0.0.1:1", … }` for the configuration.
pub(crate) fn toml_nodes(nodes: &[Server]) -> String {
    let entries: Vec<String> =
        nodes.iter().map(|node| format!("{} = \"{}\"", node.name, node.address())).collect();
    format!("{{ {} }}", entries.join(", "))
}
