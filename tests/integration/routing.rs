//! Which cluster and which node a session gets.

use crate::harness::client::Login;
use crate::harness::proxy::Spillway;
use crate::harness::workspace::free_port;
use crate::harness::{Outcome, PATIENCE, wait_for};
use crate::lab::{self, PASSWORD};
use crate::raw::{self, Credentials, Raw, Refusal, first_value};
use crate::{Verdict, ensure, same, trial};
use libtest_mimic::Trial;
use std::collections::BTreeMap;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("routing::by_database", by_database),
        trial("routing::first_use_picks_the_cluster", first_use_picks_the_cluster),
        trial("routing::accounts_stay_with_their_cluster", accounts_stay_with_their_cluster),
        trial("routing::one_writer_per_cluster", one_writer_per_cluster),
        trial("routing::any_spreads", any_spreads),
        trial("routing::explicit_map_and_no_default", explicit_map_and_no_default),
        trial("routing::same_schema_on_two_clusters", same_schema_on_two_clusters),
    ]
}

fn login(port: u16, user: &str, schema: Option<&str>) -> Outcome<Result<Raw, Refusal>> {
    raw::login(port, &Credentials::new(user, PASSWORD, schema))
}

fn session(port: u16, user: &str, schema: Option<&str>) -> Outcome<Raw> {
    login(port, user, schema)?.map_err(|refusal| format!("{user} to {schema:?}: {refusal:?}"))
}

fn served_by(session: &mut Raw) -> Outcome<u16> {
    let port = first_value(&session.query("SELECT @@port")?)?;
    port.parse().map_err(|_| format!("{port} is no port"))
}

fn by_database() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.share_galera()?;
    let replication = pair.share_replication()?;
    let on_galera = |port: u16| galera.nodes.iter().any(|node| node.port == port);
    let port = served_by(&mut session(pair.app, "app", Some("shop"))?)?;
    ensure!(on_galera(port), "shop is served at {port}");
    let port = served_by(&mut session(pair.app, "app", Some("crm"))?)?;
    same!(port, replication.nodes[0].port, "crm is served by the primary");
    let port = served_by(&mut session(pair.app, "app", None)?)?;
    ensure!(on_galera(port), "without a schema at {port}");
    let port = served_by(&mut session(pair.app, "app", Some("information_schema"))?)?;
    ensure!(on_galera(port), "information_schema at {port}");
    // The same with the program that people use.
    same!(
        Login::new(pair.app, "app", PASSWORD, Some("shop")).query("SELECT name FROM item")?,
        "lamp",
        "shop"
    );
    same!(
        Login::new(pair.app, "app", PASSWORD, Some("crm")).query("SELECT name FROM customer")?,
        "Ada",
        "crm"
    );
    // A schema that nobody has is judged by the default cluster.
    match login(pair.app, "app", Some("no_such_schema"))? {
        Err(refusal) => same!(refusal.code, 1044, "{refusal:?}"),
        Ok(_) => return Err("a schema that nobody has was entered".to_owned()),
    }
    Ok(())
}

fn first_use_picks_the_cluster() -> Verdict {
    let pair = lab::pair()?;
    let _galera = pair.share_galera()?;
    let replication = pair.share_replication()?;
    let primary = replication.nodes[0].port;
    let mut by_statement = session(pair.app, "app", None)?;
    let answer = by_statement.query("USE crm")?;
    same!(answer[0][0], 0, "USE crm: {answer:?}");
    same!(served_by(&mut by_statement)?, primary, "after USE crm");
    let mut by_command = session(pair.app, "app", None)?;
    let answer = by_command.exchange(b"\x02crm", raw::Shape::Packet)?;
    same!(answer[0][0], 0, "COM_INIT_DB crm: {answer:?}");
    same!(served_by(&mut by_command)?, primary, "after COM_INIT_DB crm");
    same!(first_value(&by_command.query("SELECT name FROM customer")?)?, "Ada", "the customer");
    // A user of one cluster alone may not go on to the other, and is told so as a server would.
    let mut seller = session(pair.app, "seller", None)?;
    let answer = seller.query("USE crm")?;
    same!(answer[0][0], 0xff, "USE crm by a user of shop: {answer:?}");
    let answer = seller.query("SELECT name FROM shop.item")?;
    same!(first_value(&answer)?, "lamp", "after the refused USE");
    Ok(())
}

fn accounts_stay_with_their_cluster() -> Verdict {
    let pair = lab::pair()?;
    let _galera = pair.share_galera()?;
    let _replication = pair.share_replication()?;
    session(pair.app, "clerk", Some("crm"))?;
    session(pair.app, "seller", Some("shop"))?;
    session(pair.crm, "clerk", None)?;
    for (port, user, schema) in [
        (pair.app, "clerk", Some("shop")),
        (pair.app, "seller", Some("crm")),
        (pair.app, "clerk", None),
        (pair.shop, "clerk", None),
        (pair.crm, "seller", None),
    ] {
        match login(port, user, schema)? {
            Err(refusal) => same!(refusal.code, 1045, "{user} to {schema:?}: {refusal:?}"),
            Ok(_) => return Err(format!("{user} entered {schema:?} of the other cluster")),
        }
    }
    Ok(())
}

fn one_writer_per_cluster() -> Verdict {
    let pair = lab::pair()?;
    let _galera = pair.share_galera()?;
    let replication = pair.share_replication()?;
    let mut ports = Vec::new();
    for _ in 0..6 {
        ports.push(served_by(&mut session(pair.shop, "app", Some("shop"))?)?);
    }
    ports.dedup();
    same!(ports.len(), 1, "writers of shop: {ports:?}");
    let mut crm = session(pair.crm, "app", Some("crm"))?;
    same!(served_by(&mut crm)?, replication.nodes[0].port, "writer of crm");
    // And the operator is told the same.
    for (cluster, port) in [("shop", ports[0]), ("crm", replication.nodes[0].port)] {
        let all = pair.spillway.get("/v1/nodes")?;
        let entries = all["nodes"].as_array().cloned().unwrap_or_default();
        let writers: Vec<_> =
            entries.iter().filter(|entry| entry["cluster"] == cluster && entry["role"] == "writer").collect();
        same!(writers.len(), 1, "writers of {cluster}: {all}");
        same!(writers[0]["address"], format!("127.0.0.1:{port}"), "writer of {cluster}: {all}");
    }
    Ok(())
}

fn any_spreads() -> Verdict {
    let pair = lab::pair()?;
    // Alone, since sessions of other tests count as load of their node.
    let galera = pair.own_galera()?;
    let replication = pair.own_replication()?;
    for (port, nodes, schema) in
        [(pair.shop_any, &galera.nodes, "shop"), (pair.crm_any, &replication.nodes, "crm")]
    {
        // A node that another test took away comes back a moment later, and grows to its share (slow_start).
        wait_for("every node bears its share", PATIENCE, || {
            let mut open = Vec::new();
            let mut counts = BTreeMap::new();
            for _ in 0..4 * nodes.len() {
                let mut session = session(port, "app", Some(schema))?;
                *counts.entry(served_by(&mut session)?).or_insert(0) += 1;
                open.push(session);
            }
            let all = pair.spillway.get("/v1/nodes")?;
            let even: BTreeMap<_, _> = nodes.iter().map(|node| (node.port, 4)).collect();
            same!(counts, even, "nodes of {schema} that serve: of {all}");
            Ok(())
        })?;
    }
    Ok(())
}

fn explicit_map_and_no_default() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.share_galera()?;
    let replication = pair.share_replication()?;
    let port = free_port()?;
    // `shop` is really on the cluster shop; the map sends it to crm, where it does not exist.
    let configuration = lab::pair_clusters_toml(&galera, &replication)
        + &lab::service_toml("mapped", port, "route = \"by-database\"\ndatabases = { shop = \"crm\" }");
    let _spillway = Spillway::start(lab::binary(), "spillway-mapped", &configuration)?;
    match login(port, "app", Some("shop"))? {
        Err(refusal) => same!(refusal.code, 1044, "judged by crm: {refusal:?}"),
        Ok(_) => return Err("the explicit map was ignored".to_owned()),
    }
    same!(served_by(&mut session(port, "app", Some("crm"))?)?, replication.nodes[0].port, "crm");
    // Two clusters and no default: a session without a schema has nowhere to go.
    match login(port, "app", None)? {
        Err(refusal) => ensure!(refusal.code != 0, "{refusal:?}"),
        Ok(_) => {
            return Err("a session without a schema was let in though there is no default cluster".to_owned());
        }
    }
    Ok(())
}

fn same_schema_on_two_clusters() -> Verdict {
    let pair = lab::pair()?;
    let galera = pair.share_galera()?;
    let replication = pair.share_replication()?;
    let primary = &replication.nodes[0];
    // Two configured clusters that are the same servers have every schema twice.
    let port = free_port()?;
    let clusters = lab::cluster_toml("one", "static", &format!("{{ a = \"{}\" }}", primary.address()))
        + &lab::cluster_toml("two", "static", &format!("{{ b = \"{}\" }}", galera.nodes[0].address()))
        + &lab::cluster_toml("three", "static", &format!("{{ c = \"{}\" }}", replication.nodes[1].address()));
    let ambiguous = clusters.clone()
        + &lab::service_toml("app", port, "route = \"by-database\"\ndefault_cluster = \"one\"");
    let mut spillway = Spillway::launch(lab::binary(), "spillway-ambiguous", &ambiguous)?;
    let status = spillway.wait(PATIENCE)?;
    same!(status.code(), Some(64), "exit code; {}", spillway.log_tail(20));
    let log = spillway.log();
    ensure!(
        log.contains("crm") && log.contains("one") && log.contains("three"),
        "schema and clusters are not named: {log}"
    );
    let clear = clusters
        + &lab::service_toml(
            "app",
            port,
            // Its node is a replica, which takes no sessions that may write.
            "route = \"by-database\"\nnode = \"any\"\ndefault_cluster = \"one\"\ndatabases = { crm = \"three\" }",
        );
    let _spillway = Spillway::start(lab::binary(), "spillway-clear", &clear)?;
    let mut session = session(port, "app", Some("crm"))?;
    same!(served_by(&mut session)?, replication.nodes[1].port, "the mapped cluster serves");
    Ok(())
}
