//! What a node says of itself and of the other members of its cluster, and who of those whom it lists is one.
//!
//! | kind | who lists whom |
//! |---|---|
//! | `galera` | `wsrep_incoming_addresses`; a member has the same state UUID, and lists itself |
//! | `group-replication` | `replication_group_members`; a member has the UUID that is listed there, and the same group |
//! | `replication`, `multi-primary` | `SHOW REPLICAS`, and the sources of a replica; a member has the id that is listed, and one of the two replicates from the other |

use std::time::Duration;

use super::asking::{column, replica_query};
use super::client::{AskError, Client, text};
use crate::config::{Cluster, ClusterKind, Node};
use crate::grants::Product;
use crate::ids::NodeAddr;

/// The most members that one node may list; the others are not looked at.
const MAX_LISTED: usize = 256;

const GALERA: &str = "('wsrep_incoming_addresses', 'wsrep_cluster_state_uuid', 'wsrep_cluster_status', \
                      'wsrep_gcomm_uuid')";
const GROUP: &str = "SELECT MEMBER_ID, MEMBER_HOST, MEMBER_PORT \
                     FROM performance_schema.replication_group_members";
const OF_GROUP: &str = "SELECT @@global.server_uuid, @@global.group_replication_group_name";
const OF_MYSQL: &str = "SELECT @@global.server_uuid, @@global.server_uuid";
// The number alone tells servers of one cluster apart, which must have different ones; the rest is for safety.
const OF_MARIADB: &str =
    "SELECT @@global.server_id, CONCAT_WS(' ', @@global.server_id, @@hostname, @@global.port)";

/// A member as another one lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// Where it says to be.
    pub(super) address: NodeAddr,
    /// By which word it is known there; none: the list has none.
    pub(super) mark: Option<String>,
    /// What it is to the one that lists it.
    pub(super) tie: Tie,
}

/// How a listed member belongs to the one that lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tie {
    /// Both say to be in one set of nodes.
    Group,
    /// It replicates from the one that lists it.
    Replica,
    /// The one that lists it replicates from it.
    Source,
}

/// What a node says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Member {
    /// What tells it from every other server, by whatever address it is reached.
    pub(super) identity: Option<String>,
    /// By which word others list it.
    pub(super) mark: Option<String>,
    /// The set of nodes that it is in now.
    pub(super) group: Option<String>,
    /// Whom it replicates from, by their marks.
    pub(super) sources: Vec<String>,
    /// Whom it lists, itself perhaps among them.
    pub(super) listed: Vec<Listed>,
    /// What it would not tell.
    pub(super) silent: Option<String>,
}

/// Logs in to a node and asks it, within the cluster's limits.
pub(super) async fn ask(cluster: &Cluster, node: &Node) -> Result<Member, AskError> {
    let limit = cluster.connect_timeout;
    let mut client = Client::connect(cluster, node, limit).await?;
    let product = Product::from_version(client.version());
    let mut member = match cluster.kind {
        ClusterKind::Galera => galera(&mut client, &product, limit).await?,
        ClusterKind::GroupReplication => group(&mut client, limit).await?,
        ClusterKind::Replication | ClusterKind::MultiPrimary => {
            replication(&mut client, &product, limit).await?
        }
        ClusterKind::Static => Member::default(),
    };
    client.close().await;
    member.listed.truncate(MAX_LISTED);
    Ok(member)
}

async fn galera(client: &mut Client, product: &Product, limit: Duration) -> Result<Member, AskError> {
    let schema = match product {
        Product::MySql { .. } => "performance_schema",
        Product::MariaDb { .. } | Product::Unsupported { .. } => "information_schema",
    };
    let query = format!(
        "SELECT VARIABLE_NAME, VARIABLE_VALUE FROM {schema}.GLOBAL_STATUS WHERE VARIABLE_NAME IN {GALERA}"
    );
    let pairs = client.pairs(&query, limit).await?;
    let get = |name: &str| {
        let pair = pairs.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        pair.map_or("", |(_, value)| value.as_str())
    };
    Ok(galera_member(get))
}

fn galera_member<'a>(get: impl Fn(&str) -> &'a str) -> Member {
    let known =
        |uuid: &str| Some(uuid.to_owned()).filter(|uuid| uuid.bytes().any(|b| !matches!(b, b'0' | b'-')));
    Member {
        identity: known(get("wsrep_gcomm_uuid")),
        group: known(get("wsrep_cluster_state_uuid")).filter(|_| get("wsrep_cluster_status") == "Primary"),
        listed: incoming(get("wsrep_incoming_addresses")),
        ..Member::default()
    }
}

/// Addresses as `wsrep_incoming_addresses` has them. Nodes that told none are empty, or `AUTO`.
fn incoming(text: &str) -> Vec<Listed> {
    let listed = |part: &str| {
        let address = part.trim().parse().ok()?;
        Some(Listed { address, mark: None, tie: Tie::Group })
    };
    let told = text.split(',').filter(|part| !part.trim().eq_ignore_ascii_case("AUTO"));
    told.filter_map(listed).take(MAX_LISTED).collect()
}

async fn group(client: &mut Client, limit: Duration) -> Result<Member, AskError> {
    let (uuid, group) = client.pairs(OF_GROUP, limit).await?.pop().ok_or(AskError::Shape("no row"))?;
    let rows = client.rows(GROUP, limit).await?;
    let mut listed = Vec::new();
    for row in rows.iter().take(MAX_LISTED) {
        listed.extend(listing(&text(row, 1)?, &text(row, 2)?, text(row, 0)?, Tie::Group));
    }
    Ok(Member {
        identity: Some(uuid.clone()),
        mark: Some(uuid),
        group: Some(group).filter(|group| !group.is_empty()),
        listed,
        ..Member::default()
    })
}

/// What the statements and their columns are called.
struct Words {
    replicas: &'static str,
    replica_mark: &'static str,
    source_mark: &'static str,
    source_host: &'static str,
    source_port: &'static str,
    connected: &'static str,
}

fn words(product: &Product) -> Words {
    let old = Words {
        replicas: "SHOW SLAVE HOSTS",
        replica_mark: "Server_id",
        source_mark: "Master_Server_Id",
        source_host: "Master_Host",
        source_port: "Master_Port",
        connected: "Slave_IO_Running",
    };
    match product {
        Product::MySql { .. } if product.is_mysql_at_least((8, 0, 22)) => Words {
            replicas: "SHOW REPLICAS",
            replica_mark: "Replica_UUID",
            source_mark: "Source_UUID",
            source_host: "Source_Host",
            source_port: "Source_Port",
            connected: "Replica_IO_Running",
        },
        Product::MySql { .. } => Words { replica_mark: "Slave_UUID", source_mark: "Master_UUID", ..old },
        Product::MariaDb { .. } | Product::Unsupported { .. } => old,
    }
}

/// The statement that lists the replicas of a product's server.
pub(super) fn replicas_query(product: &Product) -> &'static str {
    words(product).replicas
}

async fn replication(client: &mut Client, product: &Product, limit: Duration) -> Result<Member, AskError> {
    let words = words(product);
    let own = if matches!(product, Product::MySql { .. }) { OF_MYSQL } else { OF_MARIADB };
    let (mark, identity) = client.pairs(own, limit).await?.pop().ok_or(AskError::Shape("no row"))?;
    let mut member = Member { identity: Some(identity), mark: Some(mark), ..Member::default() };
    match client.rows(words.replicas, limit).await {
        Ok(rows) => {
            for row in rows.iter().take(MAX_LISTED) {
                let (host, port) = (column(row, "Host")?, column(row, "Port")?);
                member.listed.extend(listing(&host, &port, column(row, words.replica_mark)?, Tie::Replica));
            }
        }
        Err(AskError::Server { message, .. }) => member.silent = Some(message),
        Err(e) => return Err(e),
    }
    match client.rows(replica_query(product), limit).await {
        Ok(rows) => {
            for row in rows.iter().take(MAX_LISTED) {
                // Without a connection it is not known who is at that address now.
                if column(row, words.connected)? != "Yes" {
                    continue;
                }
                let (host, port) = (column(row, words.source_host)?, column(row, words.source_port)?);
                let mark = column(row, words.source_mark)?;
                member.sources.push(mark.clone());
                member.listed.extend(listing(&host, &port, mark, Tie::Source));
            }
        }
        Err(AskError::Server { message, .. }) => member.silent = Some(message),
        Err(e) => return Err(e),
    }
    Ok(member)
}

/// A listed member, unless it told no address (a replica without `report_host`) or no mark.
fn listing(host: &str, port: &str, mark: String, tie: Tie) -> Option<Listed> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let address = format!("{host}:{port}").parse().ok().filter(|_| !host.is_empty())?;
    Some(Listed { address, mark: Some(mark).filter(|mark| !mark.is_empty() && mark != "0"), tie })
}

/// Whether a server that was found where `listed` says is a member of the cluster of the one that lists it.
///
/// # Errors
/// Why it is none.
pub(super) fn admit(lister: &Member, listed: &Listed, found: &Member) -> Result<(), String> {
    let is_listed = listed.mark.is_some() && listed.mark == found.mark;
    match listed.tie {
        Tie::Group => {
            if listed.mark.is_some() && !is_listed {
                return Err("another server than the one that is listed".to_owned());
            }
            match (&lister.group, &found.group) {
                (Some(ours), Some(theirs)) if ours == theirs => Ok(()),
                (Some(ours), Some(theirs)) => Err(format!("member of {theirs}, while the cluster is {ours}")),
                _ => Err("not a member of a cluster now".to_owned()),
            }
        }
        Tie::Replica | Tie::Source if !is_listed => {
            Err("another server than the one that is listed".to_owned())
        }
        Tie::Replica if lister.mark.as_ref().is_none_or(|mark| !found.sources.contains(mark)) => {
            Err("it does not replicate from the node that lists it".to_owned())
        }
        Tie::Replica | Tie::Source => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(listed: &[Listed]) -> Vec<String> {
        listed.iter().map(|listed| listed.address.to_string()).collect()
    }

    #[test]
    fn incoming_addresses_may_be_empty_or_auto() {
        for (text, expected) in [
            ("", &[][..]),
            (",,", &[]),
            ("AUTO", &[]),
            ("10.0.0.1:3306,,AUTO,10.0.0.3:3307", &["10.0.0.1:3306", "10.0.0.3:3307"]),
            (" db1.example.com:3306 , [fd00::2]:3306", &["db1.example.com:3306", "[fd00::2]:3306"]),
            ("10.0.0.1:0,:3306,a b,10.0.0.2", &["10.0.0.2:3306"]),
        ] {
            assert_eq!(addresses(&incoming(text)), expected, "{text:?}");
        }
        let many = vec!["10.0.0.1:3306"; 10_000].join(",");
        assert_eq!(incoming(&many).len(), MAX_LISTED, "what a node lists is bounded");
    }

    #[test]
    fn a_replica_without_an_address_is_not_listed() {
        assert_eq!(listing("", "3306", "7".to_owned(), Tie::Replica), None);
        assert_eq!(listing("10.0.0.1", "0", "7".to_owned(), Tie::Replica), None);
        let six = listing("fd00::1", "3306", "7".to_owned(), Tie::Replica).expect("an address");
        assert_eq!(six.address.to_string(), "[fd00::1]:3306");
        let unmarked = listing("10.0.0.1", "3306", "0".to_owned(), Tie::Source).expect("an address");
        assert_eq!(unmarked.mark, None, "a source that was never reached has the number 0");
    }

    #[test]
    fn a_galera_node_outside_the_primary_component_is_in_no_group() {
        let member = |status: &'static str, uuid: &'static str| {
            galera_member(move |name| match name {
                "wsrep_cluster_status" => status,
                "wsrep_cluster_state_uuid" => uuid,
                _ => "",
            })
        };
        assert_eq!(member("Primary", "ab-1").group.as_deref(), Some("ab-1"));
        assert_eq!(member("non-Primary", "ab-1").group, None);
        assert_eq!(member("Primary", "00000000-0000-0000-0000-000000000000").group, None);
        assert_eq!(member("Primary", "ab-1").identity, None, "no identity is not one that others share");
    }

    fn listed(mark: Option<&str>, tie: Tie) -> Listed {
        let address = "10.0.0.2:3306".parse().expect("address");
        Listed { address, mark: mark.map(str::to_owned), tie }
    }

    fn server(mark: &str, group: Option<&str>, sources: &[&str]) -> Member {
        let sources = sources.iter().map(|&source| source.to_owned()).collect();
        Member { mark: Some(mark.to_owned()), group: group.map(str::to_owned), sources, ..Member::default() }
    }

    #[test]
    fn a_member_of_a_group_has_its_name_and_the_uuid_that_is_listed() {
        let lister = server("u1", Some("g"), &[]);
        let admit = |mark, found: &Member| admit(&lister, &listed(mark, Tie::Group), found);
        assert_eq!(admit(None, &server("u2", Some("g"), &[])), Ok(()));
        assert_eq!(admit(Some("u2"), &server("u2", Some("g"), &[])), Ok(()));
        assert!(admit(Some("u2"), &server("u3", Some("g"), &[])).is_err());
        assert!(admit(None, &server("u2", Some("h"), &[])).is_err());
        assert!(admit(None, &server("u2", None, &[])).is_err());
        let outside = server("u1", None, &[]);
        let both = super::admit(&outside, &listed(None, Tie::Group), &server("u2", None, &[]));
        assert!(both.is_err(), "two servers without a group are in none together");
    }

    #[test]
    fn a_replica_replicates_from_the_node_that_lists_it() {
        let lister = server("1", None, &[]);
        let admit = |mark, tie, found: &Member| admit(&lister, &listed(mark, tie), found);
        assert_eq!(admit(Some("2"), Tie::Replica, &server("2", None, &["9", "1"])), Ok(()));
        assert!(admit(Some("2"), Tie::Replica, &server("2", None, &["9"])).is_err());
        assert!(admit(Some("2"), Tie::Replica, &server("3", None, &["1"])).is_err());
        assert!(admit(None, Tie::Replica, &server("2", None, &["1"])).is_err());
        assert_eq!(admit(Some("2"), Tie::Source, &server("2", None, &[])), Ok(()));
        assert!(admit(Some("2"), Tie::Source, &server("3", None, &[])).is_err());
        assert!(admit(None, Tie::Source, &server("2", None, &[])).is_err());
    }
}
