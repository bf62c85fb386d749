//! Sets of servers: a Galera cluster of three nodes, a GTID primary with replicas, and two servers that replicate from each
//! other.

use super::server::{MONITOR_USER, Server};
use super::{Outcome, PATIENCE, workspace};
use std::path::Path;
use std::time::Duration;

/// How long a node may take to join; the state transfer copies a whole data directory.
const JOIN_LIMIT: Duration = Duration::from_mins(3);

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
    /// Starts three nodes: the first founds the cluster, the others join it at the same time. `suspect`: as for
    /// [`Self::found`]; of few, a busy machine may make a node that has to wait for a moment one that is dead.
    pub(crate) fn start(name: &str, options: &[&str], suspect: u8) -> Outcome<Self> {
        let prepare = |number: usize| Server::prepare(&format!("{name}{number}"), options);
        Self::found(name, (1..=3).map(prepare).collect::<Outcome<_>>()?, suspect)
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
        galera.wait_size(galera.nodes.len())?;
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

    /// Waits until the others that run have agreed that a node is gone. To meet it again before that can cost them their
    /// primary component.
    pub(crate) fn wait_left(&self, number: usize) -> Outcome<()> {
        let others = self.nodes.iter().enumerate().filter(|(n, node)| *n != number && node.pid().is_some());
        let others: Vec<&Server> = others.map(|(_, node)| node).collect();
        let size = others.len().to_string();
        others.iter().try_for_each(|node| node.wait_sql(CLUSTER_SIZE, &size, JOIN_LIMIT))
    }

    /// Starts a node again that was killed or stopped; it fetches what it missed from another one.
    pub(crate) fn rejoin(&mut self, number: usize) -> Outcome<()> {
        self.wait_left(number)?;
        self.nodes[number].launch(&[])?;
        self.wait_synced(number)
    }

    /// `{ a1 = "127.0.0.1:1", … }` for the configuration.
    pub(crate) fn toml_nodes(&self) -> String {
        toml_nodes(&self.nodes)
    }
}

/// A primary and its replicas, joined by GTID.
pub(crate) struct Replication {
    /// The primary first, then the replicas.
    pub(crate) nodes: Vec<Server>,
}

impl Replication {
    /// Starts both; the replica is read-only and has caught up when this returns.
    pub(crate) fn start(name: &str, options: &[&str]) -> Outcome<Self> {
        Self::with_replicas(name, options, &["replica"])
    }

    /// The same with several replicas, called `NAME-REPLICA`.
    pub(crate) fn with_replicas(name: &str, options: &[&str], replicas: &[&str]) -> Outcome<Self> {
        let mut nodes = Vec::new();
        let roles = replicas.iter().map(|replica| (*replica, "--read-only=1"));
        for (role, read_only) in std::iter::once(("primary", "--read-only=0")).chain(roles) {
            nodes.push(logging(&format!("{name}-{role}"), options, read_only)?);
        }
        for node in &mut nodes {
            node.wait_until_up(JOIN_LIMIT)?;
        }
        nodes[0].sql(REPLICATION_USER)?;
        for replica in &nodes[1..] {
            replica.sql(&(follow(&nodes[0], "MASTER_USE_GTID=slave_pos") + "START SLAVE"))?;
        }
        let replication = Self { nodes };
        replication.wait_caught_up()?;
        Ok(replication)
    }

    /// Waits until the replicas have applied all that the primary has written so far.
    pub(crate) fn wait_caught_up(&self) -> Outcome<()> {
        let position = self.nodes[0].sql("SELECT @@gtid_binlog_pos")?;
        for replica in &self.nodes[1..] {
            replica.wait_sql("SELECT @@gtid_slave_pos", &position, PATIENCE)?;
        }
        Ok(())
    }

    /// `{ name = "127.0.0.1:1", … }` for the configuration.
    pub(crate) fn toml_nodes(&self) -> String {
        toml_nodes(&self.nodes)
    }
}

/// Two servers that replicate from each other; the first is active, the second one read-only.
pub(crate) struct TwoPrimaries {
    /// The active one first.
    pub(crate) nodes: Vec<Server>,
}

impl TwoPrimaries {
    /// Starts both; by GTID or by coordinates. What `contents` says is made on the active one before.
    pub(crate) fn start(name: &str, by_gtid: bool, contents: &str) -> Outcome<Self> {
        let mut nodes = Vec::new();
        for (role, read_only) in [("a", "--read-only=0"), ("b", "--read-only=1")] {
            nodes.push(logging(&format!("{name}-{role}"), &DURABLE, read_only)?);
        }
        for node in &mut nodes {
            node.wait_until_up(JOIN_LIMIT)?;
        }
        let (active, inactive) = (&nodes[0], &nodes[1]);
        active.sql(REPLICATION_USER)?;
        active.sql(contents)?;
        let way = if by_gtid {
            "MASTER_USE_GTID=slave_pos"
        } else {
            "MASTER_USE_GTID=no, MASTER_LOG_FILE='binlog.000001', MASTER_LOG_POS=4"
        };
        inactive.sql(&(follow(active, way) + "START SLAVE"))?;
        let position = active.sql("SELECT @@gtid_binlog_pos")?;
        inactive.wait_sql("SELECT @@gtid_slave_pos", &position, PATIENCE)?;
        let way = if by_gtid {
            active.sql("SET GLOBAL gtid_slave_pos = @@gtid_binlog_pos")?;
            way.to_owned()
        } else {
            let status = inactive.sql("SHOW MASTER STATUS")?;
            let mut words = status.split_whitespace();
            let (file, offset) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            format!("MASTER_USE_GTID=no, MASTER_LOG_FILE='{file}', MASTER_LOG_POS={offset}")
        };
        active.sql(&(follow(inactive, &way) + "START SLAVE"))?;
        Ok(Self { nodes })
    }

    /// `{ name = "127.0.0.1:1", … }` for the configuration.
    pub(crate) fn toml_nodes(&self) -> String {
        toml_nodes(&self.nodes)
    }
}

/// Two primaries, and a read-only replica of both by the connections `one` and `two`, with the monitor account.
#[allow(dead_code, reason = "not every program of the harness has such a replica")]
pub(crate) fn two_sources(name: &str) -> Outcome<[Server; 3]> {
    let mut nodes = Vec::new();
    for (role, read_only) in
        [("one", "--read-only=0"), ("two", "--read-only=0"), ("replica", "--read-only=1")]
    {
        let domain = format!("--gtid-domain-id={}", nodes.len() + 1);
        nodes.push(logging(&format!("{name}-{role}"), &["--skip-name-resolve", &domain], read_only)?);
    }
    nodes.iter_mut().try_for_each(|node| node.wait_until_up(JOIN_LIMIT))?;
    for source in &nodes[..2] {
        source.sql(&REPLICATION_USER.replace("CREATE USER", "CREATE USER IF NOT EXISTS"))?;
    }
    nodes[0].create_monitor()?;
    for (number, connection) in ["one", "two"].into_iter().enumerate() {
        let follow = follow(&nodes[number], "MASTER_USE_GTID=slave_pos");
        let named = follow.replace("CHANGE MASTER TO", &format!("CHANGE MASTER '{connection}' TO"));
        nodes[2].sql(&format!("{named} START SLAVE '{connection}'"))?;
    }
    let accounts = "SELECT COUNT(*) FROM mysql.global_priv WHERE user IN ('replication', 'spillway')";
    nodes[2].wait_sql(accounts, "2", PATIENCE)?;
    nodes.try_into().map_err(|_| "not three nodes".to_owned())
}

/// Options with which a server loses nothing when it is killed.
pub(crate) const DURABLE: [&str; 3] =
    ["--skip-name-resolve", "--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1"];

/// As whom replicas log in.
const REPLICATION_USER: &str = "CREATE USER 'replication'@'%' IDENTIFIED BY 'replication-secret';\
                                GRANT REPLICATION SLAVE ON *.* TO 'replication'@'%'";

/// Launches a server with a binary log that others can replicate.
fn logging(name: &str, options: &[&str], read_only: &str) -> Outcome<Server> {
    let mut server = Server::prepare(name, options)?;
    server.option(format!("--server-id={}", server.port));
    for option in ["--log-bin=binlog", "--log-slave-updates=1", "--gtid-strict-mode=1", read_only] {
        server.option(option.to_owned());
    }
    server.launch(&[])?;
    Ok(server)
}

/// The statement that makes a server replicate from another one.
pub(crate) fn follow(primary: &Server, way: &str) -> String {
    format!(
        "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='replication',\
         MASTER_PASSWORD='replication-secret', MASTER_CONNECT_RETRY=1, {way};",
        primary.port
    )
}

const MYSQL_REPLICATION_USER: &str = "CREATE USER 'replication'@'%' IDENTIFIED BY 'replication-secret';\
     GRANT REPLICATION SLAVE, CONNECTION_ADMIN, BACKUP_ADMIN, GROUP_REPLICATION_STREAM ON *.* TO 'replication'@'%'";

/// Options of a `MySQL` server that others replicate, and that loses nothing when it is killed. The plugins for
/// semi-synchronous replication do nothing until they are enabled.
const MYSQL_LOGGING: &[&str] = &[
    "--skip-name-resolve",
    "--log-bin=binlog",
    "--innodb-flush-log-at-trx-commit=1",
    "--sync-binlog=1",
    "--plugin-load-add=semisync_source.so",
    "--plugin-load-add=semisync_replica.so",
];

/// And of one whose transactions have GTIDs.
const BY_GTID: &[&str] = &["--gtid-mode=ON", "--enforce-gtid-consistency=ON"];

/// A primary and a replica of `MySQL`, joined by GTID, with the monitor account.
#[allow(dead_code, reason = "not every program of the harness replicates MySQL")]
pub(crate) fn mysql_pair(name: &str) -> Outcome<[Server; 2]> {
    let nodes = mysql_replication(name, &["replica"])?;
    nodes.try_into().map_err(|_| "not two nodes".to_owned())
}

/// A primary of `MySQL`, `NAME-primary`, and its replicas, joined by GTID, with the monitor account. The primary comes first,
/// and is writable whenever it starts.
#[allow(dead_code, reason = "not every program of the harness replicates MySQL")]
pub(crate) fn mysql_replication(name: &str, replicas: &[&str]) -> Outcome<Vec<Server>> {
    let roles = replicas.iter().map(|replica| (*replica, "--super-read-only=1"));
    let roles: Vec<_> = std::iter::once(("primary", "--read-only=0")).chain(roles).collect();
    let nodes = mysql_launched(name, &roles, BY_GTID)?;
    nodes[0].sql(MYSQL_REPLICATION_USER)?;
    nodes[0].create_monitor()?;
    let follow = mysql_follow(&nodes[0], "SOURCE_AUTO_POSITION=1");
    nodes[1..].iter().try_for_each(|replica| replica.sql(&follow).map(drop))?;
    mysql_caught_up(&nodes)?;
    Ok(nodes)
}

/// Waits until the replicas have applied all that the primary, which comes first, has written so far.
#[allow(dead_code, reason = "not every program of the harness replicates MySQL")]
pub(crate) fn mysql_caught_up(nodes: &[Server]) -> Outcome<()> {
    let position = nodes[0].sql("SELECT @@global.gtid_executed")?;
    let query = format!("SELECT GTID_SUBSET('{position}', @@global.gtid_executed)");
    nodes[1..].iter().try_for_each(|replica| replica.wait_sql(&query, "1", JOIN_LIMIT))
}

/// Two servers of `MySQL` that replicate from each other, by GTID or without any by coordinates. What `contents` says is made on
/// the active one, which comes first, before.
#[allow(dead_code, reason = "not every program of the harness replicates MySQL")]
pub(crate) fn mysql_two_primaries(name: &str, by_gtid: bool, contents: &str) -> Outcome<[Server; 2]> {
    let roles = [("a", "--read-only=0"), ("b", "--super-read-only=1")];
    let (options, way) = if by_gtid {
        (BY_GTID, "SOURCE_AUTO_POSITION=1")
    } else {
        (&["--gtid-mode=OFF"][..], "SOURCE_LOG_FILE='binlog.000001', SOURCE_LOG_POS=4")
    };
    let nodes = mysql_launched(name, &roles, options)?;
    let [active, inactive] = &nodes[..] else { return Err("not two nodes".to_owned()) };
    active.sql(MYSQL_REPLICATION_USER)?;
    active.create_monitor()?;
    active.sql(contents)?;
    // Each from the other's beginning: nobody applies what carries its own id.
    for (replica, primary) in [(inactive, active), (active, inactive)] {
        replica.sql(&mysql_follow(primary, way))?;
    }
    let accounts = "SELECT COUNT(*) FROM mysql.user";
    inactive.wait_sql(accounts, &active.sql(accounts)?, JOIN_LIMIT)?;
    nodes.try_into().map_err(|_| "not two nodes".to_owned())
}

fn mysql_launched(name: &str, roles: &[(&str, &str)], options: &[&str]) -> Outcome<Vec<Server>> {
    let mut nodes = Vec::new();
    for (role, read_only) in roles {
        let mut server = Server::prepare_mysql(&format!("{name}-{role}"), MYSQL_LOGGING)?;
        server.option(format!("--server-id={}", server.port));
        for option in options.iter().chain([read_only]) {
            server.option((*option).to_owned());
        }
        server.launch(&[])?;
        nodes.push(server);
    }
    nodes.iter_mut().try_for_each(|node| node.wait_until_up(JOIN_LIMIT))?;
    Ok(nodes)
}

/// The statements that make a `MySQL` server replicate from another one.
fn mysql_follow(primary: &Server, way: &str) -> String {
    format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={}, SOURCE_USER='replication', \
         SOURCE_PASSWORD='replication-secret', {way}, GET_SOURCE_PUBLIC_KEY=1, SOURCE_CONNECT_RETRY=1; \
         START REPLICA",
        primary.port
    )
}

/// Three members of a `MySQL` group with one primary, which is the first, and the monitor account.
#[allow(dead_code, reason = "not every program of the harness has a group")]
pub(crate) fn mysql_group(name: &str) -> Outcome<Vec<Server>> {
    let ports = [workspace::free_port()?, workspace::free_port()?, workspace::free_port()?];
    let seeds = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
    let mut members = Vec::new();
    for (number, port) in ports.iter().enumerate() {
        let mut server = Server::prepare_mysql(&format!("{name}{}", number + 1), MYSQL_LOGGING)?;
        for option in [
            format!("--server-id={}", server.port),
            "--gtid-mode=ON".to_owned(),
            "--enforce-gtid-consistency=ON".to_owned(),
            "--report-host=127.0.0.1".to_owned(),
            format!("--report-port={}", server.port),
            "--plugin-load-add=group_replication.so".to_owned(),
            "--group-replication-group-name=6e1c1a52-5b7e-4a0e-9d6a-7f3f6a1d2c3b".to_owned(),
            "--group-replication-start-on-boot=OFF".to_owned(),
            format!("--group-replication-local-address=127.0.0.1:{port}"),
            format!("--group-replication-group-seeds={seeds}"),
            "--group-replication-recovery-get-public-key=ON".to_owned(),
            // A donor that is not ready at once is asked again soon, not after a minute.
            "--group-replication-recovery-reconnect-interval=1".to_owned(),
            "--group-replication-member-expel-timeout=0".to_owned(),
            // Enough for a process that is killed; and a member that joins again must apply more than is written meanwhile.
            "--innodb-flush-log-at-trx-commit=2".to_owned(),
            "--sync-binlog=0".to_owned(),
        ] {
            server.option(option);
        }
        server.launch(&[])?;
        members.push(server);
    }
    members.iter_mut().try_for_each(|member| member.wait_until_up(JOIN_LIMIT))?;
    let recovery = "CHANGE REPLICATION SOURCE TO SOURCE_USER='replication', \
                    SOURCE_PASSWORD='replication-secret' FOR CHANNEL 'group_replication_recovery';";
    let primary = &members[0];
    primary.sql(&format!(
        "{recovery} SET GLOBAL group_replication_bootstrap_group = ON; START GROUP_REPLICATION; \
         SET GLOBAL group_replication_bootstrap_group = OFF"
    ))?;
    let online = "SELECT COUNT(*) FROM performance_schema.replication_group_members \
                  WHERE MEMBER_STATE = 'ONLINE' AND MEMBER_ROLE = 'PRIMARY'";
    primary.wait_sql(online, "1", JOIN_LIMIT)?;
    primary.wait_sql("SELECT @@super_read_only", "0", JOIN_LIMIT)?;
    primary.sql(MYSQL_REPLICATION_USER)?;
    primary.create_monitor()?;
    primary.sql(&format!(
        "GRANT SELECT ON performance_schema.replication_group_members TO '{MONITOR_USER}'@'%'; \
         GRANT SELECT ON performance_schema.replication_group_member_stats TO '{MONITOR_USER}'@'%'"
    ))?;
    for member in &members[1..] {
        member.sql(&format!("{recovery} START GROUP_REPLICATION"))?;
    }
    let online =
        "SELECT COUNT(*) FROM performance_schema.replication_group_members WHERE MEMBER_STATE = 'ONLINE'";
    for member in &members {
        member.wait_sql(online, "3", JOIN_LIMIT)?;
    }
    Ok(members)
}

/// `{ name = "127.0.0.1:1", … }` for the configuration.
pub(crate) fn toml_nodes(nodes: &[Server]) -> String {
    let entries: Vec<String> =
        nodes.iter().map(|node| format!("{} = \"{}\"", node.name, node.address())).collect();
    format!("{{ {} }}", entries.join(", "))
}
