//! The connection that looks at one node and changes it, in the words of its product.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::auth::Proof;
use crate::backend::{self, Announce, Approach, Credentials, Link, LinkError, Row};
use crate::config::{self, Account, Cluster};
use crate::grants::Product;
use crate::ids::{NodeAddr, NodeName};
use crate::wire::Capabilities;

use super::position::{Coordinates, Gtids};
use super::sight::{Dialect, Seen, SemiSync, Source};

/// From one look at a node that is waited for to the next.
pub(super) const GLANCE: Duration = Duration::from_millis(20);

/// How long threads of replication may take to start or stop.
const THREADS: Duration = Duration::from_secs(10);

/// The first `MySQL` that has every one of these statements and variables.
const OLDEST_MYSQL: (u32, u32, u32) = (8, 0, 26);

/// A node under the hands of an account that may change it. A connection that failed is made anew by the next question.
#[derive(Debug)]
pub(super) struct Operated {
    cluster: Cluster,
    node: config::Node,
    link: Option<Link>,
    product: Product,
    dialect: Dialect,
}

impl Operated {
    /// Not connected yet.
    pub(super) fn new(cluster: &Cluster, node: &config::Node) -> Self {
        Self {
            cluster: cluster.clone(),
            node: node.clone(),
            link: None,
            product: Product::Unsupported { version: String::new() },
            dialect: Dialect::MariaDb,
        }
    }

    pub(super) fn name(&self) -> &NodeName {
        &self.node.name
    }

    pub(super) fn address(&self) -> &NodeAddr {
        &self.node.address
    }

    /// How long it may take to answer a question that it can answer at once.
    pub(super) fn limit(&self) -> Duration {
        self.cluster.connect_timeout.max(Duration::from_secs(1))
    }

    /// Whether the last question left a connection that can be used.
    pub(super) fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    async fn connect(&mut self) -> Result<(), LinkError> {
        if self.link.is_some() {
            return Ok(());
        }
        let monitor = &self.cluster.monitor;
        let (user, secret) = match &self.cluster.handover.account {
            Some(Account { user, secret }) => (user, secret),
            None => (&monitor.user, &monitor.secret),
        };
        let proof = Proof::from_password(secret.expose().as_bytes());
        let credentials = Credentials {
            user: user.as_bytes(),
            proof: &proof,
            exchange: None,
            database: None,
            capabilities: Capabilities::REQUIRED,
            collation: 45,
            max_packet: 1 << 24,
            attributes: None,
        };
        let approach = Approach {
            address: &self.node.address,
            source: self.cluster.source_address,
            tls: self.cluster.tls.as_ref().map(|tls| &tls.trust),
            announce: Announce::Nothing,
        };
        let mut link = backend::connect(&approach, &credentials, self.cluster.connect_timeout).await?;
        let version = &link.origin.facts.version;
        self.dialect = if version.contains("MariaDB") { Dialect::MariaDb } else { Dialect::MySql };
        self.product = Product::from_version(version);
        // What waits for a lock must not wait longer than Spillway does; and what a proxy that vanished holds must not be
        // held for long.
        let handover = &self.cluster.handover;
        let waits = [
            Some(handover.freeze_timeout),
            Some(handover.catch_up_timeout),
            handover.running_transactions_timeout,
        ];
        let patience = waits.into_iter().flatten().sum::<Duration>() * 2 + Duration::from_mins(1);
        // Servers tell in the time zone of the system when transactions began.
        let settings = format!(
            "SET SESSION sql_mode='', SESSION time_zone='SYSTEM', SESSION wait_timeout={}, \
             SESSION lock_wait_timeout={}",
            patience.as_secs(),
            handover.freeze_timeout.as_secs()
        );
        link.rows(&settings, self.cluster.connect_timeout).await?;
        self.link = Some(link);
        Ok(())
    }

    /// The rows of a statement. After any error but the server's own the connection is closed, and whether the statement was
    /// done is not known.
    pub(super) async fn ask(&mut self, statement: &str, limit: Duration) -> Result<Vec<Row>, LinkError> {
        self.connect().await?;
        let Some(mut link) = self.link.take() else { return Ok(Vec::new()) };
        let answer = link.rows(statement, limit).await;
        if matches!(answer, Ok(_) | Err(LinkError::Refused(_))) {
            self.link = Some(link);
        }
        answer
    }

    /// The same for what is answered at once.
    async fn tell(&mut self, statement: &str) -> Result<Vec<Row>, String> {
        self.ask(statement, self.limit()).await.map_err(|e| e.to_string())
    }

    // === looking ===

    /// What the node tells about itself.
    pub(super) async fn look(&mut self, enabled: bool) -> Result<Seen, String> {
        self.connect().await.map_err(|e| e.to_string())?;
        let dialect = self.dialect;
        if dialect == Dialect::MySql && !self.product.is_mysql_at_least(OLDEST_MYSQL) {
            let (major, minor, patch) = OLDEST_MYSQL;
            return Err(format!(
                "MySQL before {major}.{minor}.{patch}, whose writer Spillway does not change"
            ));
        }
        let rows = self.tell(dialect.variables()).await?;
        let row = rows.first().ok_or("no answer about its variables")?;
        let text = |i| text(row, i);
        let gtids = |parse: fn(&str) -> Option<Gtids>, i| {
            parse(&text(i)).ok_or_else(|| format!("unknown position {:?}", text(i)))
        };
        let (applied, written, history) = match dialect {
            Dialect::MariaDb => {
                (gtids(Gtids::of_position, 4)?, gtids(Gtids::of_position, 5)?, gtids(Gtids::of_state, 6)?)
            }
            Dialect::MySql => {
                let executed = gtids(Gtids::of_set, 4)?;
                (executed.clone(), executed.clone(), executed)
            }
        };
        let has_gtids = dialect == Dialect::MariaDb || text(7) == "ON";
        let server_id = text(0).parse().map_err(|_| "no server id")?;
        let end = self.tell(dialect.log_end(&self.product)).await?;
        let sources = self.tell(dialect.sources()).await?;
        let sources = sources.iter().map(|row| source(row, dialect)).collect::<Result<_, _>>()?;
        Ok(Seen {
            node: self.node.name.clone(),
            address: self.node.address.clone(),
            priority: self.node.priority,
            enabled,
            dialect,
            server_id,
            uuid: if dialect == Dialect::MySql { text(8).to_ascii_lowercase() } else { String::new() },
            read_only: is_on(&text(1)),
            logs_updates: is_on(&text(2)) && is_on(&text(3)),
            parallel: dialect == Dialect::MySql || text(7) != "0",
            gtids: has_gtids,
            applied,
            written,
            history,
            end: end.first().and_then(|row| coordinates(&self::text(row, 0), &self::text(row, 1))),
            sources,
            semi_sync: SemiSync::default(),
        })
    }

    /// The same, and who waits for whom before a client is told of a commit.
    pub(super) async fn look_closely(&mut self, enabled: bool) -> Result<Seen, String> {
        let mut seen = self.look(enabled).await?;
        let mut values = BTreeMap::new();
        for what in ["VARIABLES", "STATUS"] {
            for row in self.tell(&format!("SHOW GLOBAL {what} LIKE 'rpl\\_semi\\_sync%'")).await? {
                let name = text(&row, 0).to_ascii_lowercase();
                // MySQL's words; its older servers have those of MariaDB.
                let name = name.replace("_master_", "_source_").replace("slave", "replica");
                values.insert(name, text(&row, 1));
            }
        }
        seen.semi_sync = SemiSync::of(|name| values.get(name).map(String::as_str));
        Ok(seen)
    }

    /// Whether the server takes no writes.
    pub(super) async fn is_read_only(&mut self) -> Result<bool, String> {
        let rows = self.tell("SELECT @@global.read_only").await?;
        Ok(rows.first().is_some_and(|row| is_on(&text(row, 0))))
    }

    /// Whether the account may change `read_only`: it is set to what it is.
    pub(super) async fn may_change(&mut self) -> Result<(), String> {
        self.tell("SET GLOBAL read_only = @@global.read_only").await.map(drop)
    }

    /// Whether the account may change the replication: it is asked to change that of a source that is not there.
    pub(super) async fn may_replicate(&mut self) -> Result<(), String> {
        const ACCESS_DENIED: u16 = 1227;
        const NOBODY: &str = "spillway-nobody";
        let limit = self.cluster.connect_timeout;
        self.connect().await.map_err(|e| e.to_string())?;
        for statement in [self.dialect.stop(NOBODY), self.dialect.forget(NOBODY)] {
            match self.ask(&statement, limit).await {
                Ok(_) => {}
                Err(LinkError::Refused(e)) if e.code != ACCESS_DENIED => {}
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(())
    }

    // === changing ===

    /// Makes the server read-only or writable, and makes sure of it: after an error, too, only what the server says
    /// counts.
    pub(super) async fn set_read_only(&mut self, wanted: bool) -> Result<(), String> {
        self.connect().await.map_err(|e| e.to_string())?;
        let thread = self.link.as_ref().map(|link| link.origin.thread_id);
        // The server gives up by itself before that.
        let limit = self.cluster.handover.freeze_timeout + Duration::from_secs(2);
        let told = self.ask(self.dialect.read_only(wanted), limit).await;
        if let (Err(e), Some(thread)) = (&told, thread)
            && !matches!(e, LinkError::Refused(_))
        {
            self.end_thread(thread).await?;
        }
        let is = self.is_read_only().await.map_err(|e| format!("whether it is read-only is unknown: {e}"))?;
        match told {
            _ if is == wanted => Ok(()),
            Ok(_) => Err(format!("the server took it, and read_only is {is}")),
            Err(e) => Err(self.explained(wanted, &e)),
        }
    }

    /// Ends a thread of this account whose statement may still wait in the server, and be done later.
    async fn end_thread(&mut self, thread: u32) -> Result<(), String> {
        let start = Instant::now();
        let unknown = |e: String| format!("what became of the statement is unknown: {e}");
        loop {
            // It may have ended by itself.
            let _ = self.tell(&format!("KILL {thread}")).await;
            let query = format!("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE ID = {thread}");
            match self.tell(&query).await {
                Ok(rows) if rows.first().is_some_and(|row| text(row, 0) == "0") => return Ok(()),
                answer if start.elapsed() > THREADS => {
                    return Err(unknown(answer.err().unwrap_or_else(|| "it still runs".to_owned())));
                }
                _ => sleep(GLANCE).await,
            }
        }
    }

    fn explained(&self, wanted: bool, error: &LinkError) -> String {
        const LOCK_WAIT_TIMEOUT: u16 = 1205;
        match error {
            LinkError::Refused(e) if wanted && e.code == LOCK_WAIT_TIMEOUT => {
                let limit = humantime::format_duration(self.cluster.handover.freeze_timeout);
                format!("a statement or a lock on {} did not end within {limit}", self.node.name)
            }
            e => e.to_string(),
        }
    }

    /// Stops the replication from a source.
    pub(super) async fn stop(&mut self, source: &str) -> Result<(), String> {
        let statement = self.dialect.stop(source);
        self.ask(&statement, THREADS).await.map_err(|e| e.to_string())?;
        self.until(|source| source.io == "No" && source.sql == "No", source).await
    }

    /// Starts the replication from a source, and waits until both threads run.
    pub(super) async fn start(&mut self, source: &str) -> Result<(), String> {
        let statement = self.dialect.start(source);
        self.ask(&statement, THREADS).await.map_err(|e| e.to_string())?;
        self.until(|source| source.trouble().is_none(), source).await
    }

    /// The same, as far as the source is there to be reached.
    pub(super) async fn resume(&mut self, source: &str) -> Result<(), String> {
        let statement = self.dialect.start(source);
        self.ask(&statement, THREADS).await.map_err(|e| e.to_string())?;
        self.until(|source| source.io != "No" && source.sql == "Yes", source).await
    }

    /// Starts the SQL thread alone, for what was received from a source.
    pub(super) async fn start_applying(&mut self, source: &str) -> Result<(), String> {
        let statement = self.dialect.start_applying(source);
        self.ask(&statement, THREADS).await.map_err(|e| e.to_string())?;
        self.until(|source| source.sql == "Yes", source).await
    }

    async fn until(&mut self, fits: impl Fn(&Source) -> bool, name: &str) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let seen = self.look(true).await?;
            let source = seen.sources.iter().find(|source| source.name == name);
            if source.is_some_and(&fits) {
                return Ok(());
            }
            if start.elapsed() > THREADS {
                let state = source.map_or_else(
                    || "there is no such source".to_owned(),
                    |source| source.trouble().unwrap_or_else(|| "both threads run".to_owned()),
                );
                return Err(format!("replication of {}: {state}", self.node.name));
            }
            sleep(GLANCE).await;
        }
    }

    /// Removes a source with all that is known of it.
    pub(super) async fn forget(&mut self, source: &str) -> Result<(), String> {
        let statement = self.dialect.forget(source);
        self.tell(&statement).await?;
        let seen = self.look(true).await?;
        if seen.sources.iter().any(|known| known.name == source) {
            return Err(format!("{} still has its source", self.node.name));
        }
        Ok(())
    }

    /// Replicates from another server by GTID, from where it stands.
    pub(super) async fn follow(&mut self, primary: &NodeAddr, replica: &Account) -> Result<(), String> {
        let seen = self.look(true).await?;
        let name = seen.sources.first().map_or_else(String::new, |source| source.name.clone());
        if !seen.sources.is_empty() {
            self.stop(&name).await?;
        }
        if self.dialect == Dialect::MariaDb {
            // A former primary has no position as a replica of what it wrote itself.
            self.tell("SET GLOBAL gtid_slave_pos = @@global.gtid_current_pos").await?;
        }
        let statement = self.dialect.follow(&name, primary, replica);
        self.ask(&statement, THREADS).await.map_err(|e| discreet(&e))?;
        self.start(&name).await
    }

    /// Says goodbye.
    pub(super) async fn close(mut self) {
        if let Some(link) = self.link.take() {
            link.quit().await;
        }
    }
}

/// What a server says to a statement with a password. It repeats a part of one that it does not understand.
fn discreet(error: &LinkError) -> String {
    const PARSE_ERROR: u16 = 1064;
    match error {
        LinkError::Refused(e) if e.code == PARSE_ERROR => {
            format!("the server does not understand the statement (error {PARSE_ERROR})")
        }
        other => other.to_string(),
    }
}

/// A value as text; NULL is empty.
pub(super) fn text(row: &Row, column: usize) -> String {
    let value = row.value(column).flatten().unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}

/// Newer servers have more than two values of `read_only`.
fn is_on(value: &str) -> bool {
    !matches!(value, "" | "0" | "OFF")
}

fn coordinates(file: &str, offset: &str) -> Option<Coordinates> {
    let offset = offset.parse().ok()?;
    (!file.is_empty()).then(|| Coordinates { file: file.to_owned(), offset })
}

/// A row of the replication status. Columns have the names of `MariaDB` here.
fn source(row: &Row, dialect: Dialect) -> Result<Source, String> {
    let get = |name: &str| {
        let name = dialect.column(name);
        let index = row.columns().iter().position(|column| column.eq_ignore_ascii_case(&name));
        index.map(|i| text(row, i)).ok_or_else(|| format!("no column {name} in the state of replication"))
    };
    let (by_gtid, received) = match dialect {
        Dialect::MariaDb => (get("Using_Gtid")? != "No", Gtids::of_position(&get("Gtid_IO_Pos")?)),
        Dialect::MySql => (get("Auto_Position")? == "1", Gtids::of_set(&get("Retrieved_Gtid_Set")?)),
    };
    let sql_error = get("Last_SQL_Error")?;
    let errors = [get("Last_IO_Error")?, sql_error.clone()];
    Ok(Source {
        name: get("Connection_name")?,
        address: format!("{}:{}", get("Master_Host")?, get("Master_Port")?),
        server_id: get("Master_Server_Id")?.parse().unwrap_or_default(),
        io: get("Slave_IO_Running")?,
        sql: get("Slave_SQL_Running")?,
        error: errors.into_iter().find(|error| !error.is_empty()).unwrap_or_default(),
        sql_error,
        delay: get("SQL_Delay")?.parse().unwrap_or_default(),
        lag: get("Seconds_Behind_Master")?.parse().ok(),
        by_gtid,
        received: received.ok_or("unknown position of the IO thread")?,
        read: coordinates(&get("Master_Log_File")?, &get("Read_Master_Log_Pos")?),
        executed: coordinates(&get("Relay_Master_Log_File")?, &get("Exec_Master_Log_Pos")?),
        idle: get("Slave_SQL_Running_State")?.contains("has read all relay log"),
    })
}

/// A text as a literal of SQL, with backslashes as escapes.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

// === impl Dialect: every statement, in the words of each product ===

impl Dialect {
    /// Server id, `read_only`, whether there is a binary log and whether it has what is replicated; what is applied and
    /// written; whether GTIDs are used.
    fn variables(self) -> &'static str {
        match self {
            Self::MariaDb => {
                "SELECT @@global.server_id, @@global.read_only, @@global.log_bin, @@global.log_slave_updates, \
                 @@global.gtid_current_pos, @@global.gtid_binlog_pos, @@global.gtid_binlog_state, \
                 @@global.slave_parallel_threads"
            }
            Self::MySql => {
                "SELECT @@global.server_id, @@global.read_only, @@global.log_bin, @@global.log_replica_updates, \
                 @@global.gtid_executed, '', '', @@global.gtid_mode, @@global.server_uuid"
            }
        }
    }

    fn log_end(self, product: &Product) -> &'static str {
        match self {
            Self::MySql if product.is_mysql_at_least((8, 2, 0)) => "SHOW BINARY LOG STATUS",
            Self::MariaDb | Self::MySql => "SHOW MASTER STATUS",
        }
    }

    fn sources(self) -> &'static str {
        match self {
            Self::MariaDb => "SHOW ALL SLAVES STATUS",
            Self::MySql => "SHOW REPLICA STATUS",
        }
    }

    /// The name of a column of the replication status.
    fn column(self, name: &str) -> String {
        match self {
            Self::MariaDb => name.to_owned(),
            Self::MySql if name == "Connection_name" => "Channel_Name".to_owned(),
            Self::MySql => name.replace("Master", "Source").replace("Slave", "Replica"),
        }
    }

    /// On `MySQL` the one that binds administrators, too.
    fn read_only(self, wanted: bool) -> &'static str {
        match (self, wanted) {
            (Self::MariaDb, true) => "SET GLOBAL read_only = 1",
            (Self::MySql, true) => "SET GLOBAL super_read_only = 1",
            (_, false) => "SET GLOBAL read_only = 0",
        }
    }

    /// A statement about one source.
    fn about(self, verb: &str, rest: &str, source: &str) -> String {
        match self {
            Self::MariaDb => format!("{verb} SLAVE {}{rest}", quoted(source)),
            Self::MySql => format!("{verb} REPLICA{rest} FOR CHANNEL {}", quoted(source)),
        }
    }

    fn stop(self, source: &str) -> String {
        self.about("STOP", "", source)
    }

    fn start(self, source: &str) -> String {
        self.about("START", "", source)
    }

    fn start_applying(self, source: &str) -> String {
        self.about("START", " SQL_THREAD", source)
    }

    fn forget(self, source: &str) -> String {
        self.about("RESET", " ALL", source)
    }

    fn follow(self, source: &str, primary: &NodeAddr, replica: &Account) -> String {
        let name = quoted(source);
        let (host, port) = (quoted(&primary.host), primary.port);
        let (user, password) = (quoted(&replica.user), quoted(replica.secret.expose()));
        match self {
            Self::MariaDb => format!(
                "CHANGE MASTER {name} TO MASTER_HOST={host}, MASTER_PORT={port}, MASTER_USER={user}, \
                 MASTER_PASSWORD={password}, MASTER_USE_GTID=slave_pos"
            ),
            Self::MySql => format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST={host}, SOURCE_PORT={port}, SOURCE_USER={user}, \
                 SOURCE_PASSWORD={password}, SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1 FOR CHANNEL {name}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn statements_are_in_the_words_of_the_product() {
        let replica = Account { user: "re'pl".into(), secret: Secret::new("a\\b") };
        let primary = "db2:3307".parse().unwrap();
        assert_eq!(
            Dialect::MariaDb.follow("", &primary, &replica),
            "CHANGE MASTER '' TO MASTER_HOST='db2', MASTER_PORT=3307, MASTER_USER='re''pl', \
             MASTER_PASSWORD='a\\\\b', MASTER_USE_GTID=slave_pos"
        );
        assert!(Dialect::MySql.follow("c", &primary, &replica).ends_with("FOR CHANNEL 'c'"));
        assert_eq!(Dialect::MariaDb.forget(""), "RESET SLAVE '' ALL");
        assert_eq!(Dialect::MySql.forget(""), "RESET REPLICA ALL FOR CHANNEL ''");
        assert_eq!(Dialect::MariaDb.start_applying("c"), "START SLAVE 'c' SQL_THREAD");
        assert_eq!(Dialect::MySql.start_applying(""), "START REPLICA SQL_THREAD FOR CHANNEL ''");
        let of = |version| Dialect::MySql.log_end(&Product::from_version(version));
        assert_eq!((of("8.0.36"), of("9.7.0")), ("SHOW MASTER STATUS", "SHOW BINARY LOG STATUS"));
        assert_eq!(Dialect::MySql.column("Relay_Master_Log_File"), "Relay_Source_Log_File");
        assert_eq!(Dialect::MySql.column("Slave_SQL_Running_State"), "Replica_SQL_Running_State");
    }
}
