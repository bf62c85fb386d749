//! Hosts with a network of their own: each is a network namespace with a cable to one switch, which this machine is at,
//! too. A cable can be cut, so that packets vanish without a word in both directions, or be a bad one, which carries them
//! late and loses some.
//!
//! Everything is named after this process and goes with the run ([`remove`]). What a run that was killed left behind is
//! swept by the next one.

use super::process::{Process, RunAs, run};
use super::{Outcome, PATIENCE, wait_for, workspace};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

/// How names of namespaces and interfaces begin; an interface's name has room for 15 characters.
const PREFIX: &str = "spw";

/// A switch and the hosts at it, with addresses from the range that is set aside for measurements (198.18.0.0/15).
struct Network {
    bridge: String,
    third: u8,
    hosts: Vec<Host>,
}

/// One host.
#[derive(Clone)]
pub(crate) struct Host {
    /// Its address.
    pub(crate) address: Ipv4Addr,
    namespace: String,
    cable: String,
    bridge: String,
}

/// How bad a cable is, in each direction.
pub(crate) struct Impairment {
    /// The least and the greatest delay in milliseconds.
    pub(crate) delay: (u32, u32),
    /// How many of a hundred packets are lost.
    pub(crate) lost: u32,
}

/// A bad cable in place of a host's own, which comes back when this is dropped.
pub(crate) struct BadCable {
    host: Host,
    _carrier: Process,
}

impl Network {
    fn new() -> Outcome<Self> {
        sweep();
        let bridge = format!("{PREFIX}{}b", std::process::id());
        let network = Self { bridge: bridge.clone(), third: free_network()?, hosts: Vec::new() };
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["addr", "add", &format!("198.18.{}.1/24", network.third), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        Ok(network)
    }

    /// One more host.
    fn add(&mut self) -> Outcome<()> {
        let number = self.hosts.len() as u8 + 1;
        let namespace = format!("{PREFIX}{}-{number}", std::process::id());
        let cable = format!("{PREFIX}{}v{number}", std::process::id());
        let address = Ipv4Addr::new(198, 18, self.third, 10 + number);
        ip(&["netns", "add", &namespace])?;
        let bridge = self.bridge.clone();
        self.hosts.push(Host { address, namespace: namespace.clone(), cable: cable.clone(), bridge });
        ip(&["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
        ip(&["link", "set", &cable, "master", &self.bridge, "up"])?;
        ip(&["-n", &namespace, "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"]).map(drop)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in &self.hosts {
            // The end of a cable goes with the other one.
            let _ = ip(&["netns", "delete", &host.namespace]);
            let _ = ip(&["link", "delete", &host.cable]);
        }
        let _ = ip(&["link", "delete", &self.bridge]);
    }
}

impl Host {
    /// Pulls the plug (true) or puts it back: the switch forgets the host, and neither side is told.
    pub(crate) fn cut(&self, cut: bool) -> Outcome<()> {
        ip(&["link", "set", &self.cable, if cut { "down" } else { "up" }]).map(drop)
    }

    /// What the host would send to a port of this machine vanishes from now on, or no longer: one connection dies, and
    /// neither side is told, while all others go on.
    pub(crate) fn mute(&self, port: u16, muted: bool) -> Outcome<()> {
        let [a, b, c, _] = self.address.octets();
        let machine = Ipv4Addr::new(a, b, c, 1).to_string();
        let (verb, port) = (if muted { "add" } else { "del" }, port.to_string());
        let rule = ["to", &machine, "ipproto", "tcp", "dport", &port, "blackhole"];
        ip(&[&["-n", &self.namespace, "rule", verb][..], &rule].concat()).map(drop)
    }

    /// Puts a bad cable in the place of the host's own. Connections stay: its end has the same addresses.
    pub(crate) fn impair(&self, impairment: &Impairment) -> Outcome<BadCable> {
        let (inside, outside) = (self.cable.replace('v', "i"), self.cable.replace('v', "o"));
        let (least, greatest) = impairment.delay;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/harness/cable.py");
        let mut arguments = vec![script.display().to_string(), inside.clone(), outside.clone()];
        arguments.extend([least, greatest, impairment.lost].map(|number| number.to_string()));
        let log = workspace::root()?.join("cable.log");
        let python = Path::new(PYTHON);
        let carrier = Process::start("a bad cable", python, &arguments, &[], &log, RunAs::Myself)?;
        let bad = BadCable { host: self.clone(), _carrier: carrier };
        wait_for("the ends of a bad cable", PATIENCE, || {
            ip(&["link", "show", &inside])?;
            ip(&["link", "show", &outside])
        })
        .map_err(|reason| format!("{reason}\n{}", workspace::tail(&log, 20)))?;
        let own = ip(&["-n", &self.namespace, "-o", "link", "show", "eth0"])?;
        let mut words = own.split_whitespace().skip_while(|word| *word != "link/ether");
        let ether = words.nth(1).ok_or_else(|| format!("no address in {own}"))?;
        ip(&["link", "set", &outside, "master", &self.bridge, "up"])?;
        ip(&["link", "set", &inside, "netns", &self.namespace])?;
        ip(&["-n", &self.namespace, "link", "set", &inside, "address", ether])?;
        ip(&["-n", &self.namespace, "addr", "add", &format!("{}/24", self.address), "dev", &inside])?;
        ip(&["-n", &self.namespace, "link", "set", &inside, "up"])?;
        ip(&["-n", &self.namespace, "link", "set", "eth0", "down"])?;
        Ok(bad)
    }

    /// Makes a program in `directory` that starts `program` on this host, as the user that servers run as.
    pub(crate) fn wrap(&self, program: &Path, directory: &Path) -> Outcome<PathBuf> {
        let path = directory.join("on-its-host.sh");
        let user = workspace::server_user()
            .map(|user| format!("--reuid {user} --regid {user} --init-groups"))
            .unwrap_or_default();
        // Said again, because a change of the user takes it away.
        let text = format!(
            "#!/bin/sh\nexec ip netns exec {} setpriv --pdeathsig KILL {user} -- '{}' \"$@\"\n",
            self.namespace,
            program.display()
        );
        fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
        Ok(path)
    }
}

impl Drop for BadCable {
    fn drop(&mut self) {
        // The bad one goes with its carrier.
        let _ = ip(&["-n", &self.host.namespace, "link", "set", "eth0", "up"]);
    }
}

/// Debian's interpreter.
const PYTHON: &str = "/usr/bin/python3";

fn ip(arguments: &[&str]) -> Outcome<String> {
    let words = arguments.join(" ");
    run(Command::new("ip").args(arguments)).map_err(|reason| format!("ip {words}: {reason}"))
}

/// The third number of a network of which this machine has no address yet.
fn free_network() -> Outcome<u8> {
    let known = ip(&["-o", "-4", "addr", "show"])?;
    let is_free = |third: &u8| !known.contains(&format!(" 198.18.{third}."));
    (0..=255).find(is_free).ok_or_else(|| "no free network within 198.18.0.0/16".to_owned())
}

/// Removes what runs left behind that are gone.
fn sweep() {
    let is_dead = |name: &str| {
        let digits: String =
            name.strip_prefix(PREFIX).unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
        !digits.is_empty() && !Path::new("/proc").join(&digits).exists()
    };
    let spaces = ip(&["netns", "list"]).unwrap_or_default();
    for name in spaces.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| is_dead(name))
    {
        let _ = ip(&["netns", "delete", name]);
    }
    let links = ip(&["-o", "link", "show"]).unwrap_or_default();
    let names = links.lines().filter_map(|line| line.split_whitespace().nth(1)?.split([':', '@']).next());
    for name in names.filter(|name| is_dead(name)) {
        let _ = ip(&["link", "delete", name]);
    }
}

static NETWORK: Mutex<Option<Network>> = Mutex::new(None);

/// The first `count` hosts of this run, which are made at the first call.
pub(crate) fn hosts(count: u8) -> Outcome<Vec<Host>> {
    let mut network = NETWORK.lock().unwrap_or_else(PoisonError::into_inner);
    let network = match &mut *network {
        Some(network) => network,
        none => none.insert(Network::new()?),
    };
    while network.hosts.len() < usize::from(count) {
        network.add()?;
    }
    Ok(network.hosts[..usize::from(count)].to_vec())
}

/// Removes them.
pub(crate) fn remove() {
    NETWORK.lock().unwrap_or_else(PoisonError::into_inner).take();
}

/// Why there are no such hosts on this machine; none where there are.
pub(crate) fn missing() -> Option<&'static str> {
    static REASON: LazyLock<Option<String>> =
        LazyLock::new(|| Network::new().and_then(|mut network| network.add()).err());
    REASON.as_deref()
}

/// Why there are no bad cables on this machine; none where there are. Not by `netem`, which many kernels lack: the cable is a
/// program of our own between two TAP devices.
pub(crate) fn bad_cables_missing() -> Option<String> {
    if let Some(reason) = missing() {
        return Some(reason.to_owned());
    }
    let needed = ["/dev/net/tun", PYTHON].into_iter().find(|path| !Path::new(path).exists());
    needed.map(|path| format!("there is no {path}"))
}
