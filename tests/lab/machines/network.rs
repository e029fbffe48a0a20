//! The lab's network: a switch (a bridge in a namespace of its own) and a port for each machine.
//!
//! Every lab uses the same addresses, for no lab sees another's network, nor does the host.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::Result;

use super::namespace::Resident;

/// The address of the lab itself, from which a test reaches its machines.
pub const LAB_ADDR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Where a machine is on the switch: its place gives its address, port and hardware address.
#[derive(Clone, Copy, Debug)]
pub struct Place(pub u8);

impl Place {
    /// The machine's address.
    pub fn addr(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, 10 + self.0)
    }

    /// The hardware address: the same after a power cut, as with a real network card.
    pub fn hardware_addr(self) -> String {
        format!("02:00:00:4d:00:{:02x}", self.0)
    }

    fn port(self) -> String {
        format!("port{}", self.0)
    }
}

/// The switch.
#[derive(Debug)]
pub struct Switch {
    space: Resident,
}

impl Switch {
    /// A switch without machines.
    pub fn new() -> Result<Switch> {
        let space = Resident::start("lab switch")?;
        space.ip(&format!(
            "link set lo up\n\
             link add lab0 type bridge stp_state 0 mcast_snooping 0\n\
             addr add {LAB_ADDR}/24 dev lab0\n\
             link set lab0 up\n"
        ))?;
        Ok(Switch { space })
    }

    /// The switch's side of the network, to run a server or a client there.
    pub fn space(&self) -> &Resident {
        &self.space
    }

    /// Gives the empty network of `machine` a card and an address, and plugs it in.
    pub fn attach(&self, machine: &Resident, place: Place) -> Result<()> {
        let (port, network) = (place.port(), machine.network());
        // The network of before a power cut may take its end of the cable along only later.
        let _ = self.space.ip(&format!("link del {port}\n"));
        self.space.ip(&format!(
            "link add {port} type veth peer name host0 address {} netns {}\n\
             link set {port} master lab0 up\n",
            place.hardware_addr(),
            network.display()
        ))?;
        machine.ip(&format!(
            "link set lo up\n\
             link set host0 up\n\
             addr add {}/24 dev host0\n",
            place.addr()
        ))
    }

    /// Cuts the cable (`false`) or mends it. The machine's card notices nothing: frames vanish.
    pub fn plug(&self, place: Place, plugged: bool) -> Result<()> {
        let port = place.port();
        let master = if plugged { "master lab0" } else { "nomaster" };
        self.space.ip(&format!("link set {port} {master}\n"))
    }
}

/// How machines share a line: as Debian's kernel does, whatever the host's does, or as `BLAT_LAB_TCP` says.
fn congestion_control() -> String {
    std::env::var("BLAT_LAB_TCP").unwrap_or_else(|_| "cubic".into())
}

/// Has the host allow it to machines. What prevents that is told when they want it.
pub fn allow_congestion_control() {
    let path = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
    let (now, wanted) = (fs::read_to_string(path).unwrap_or_default(), congestion_control());
    if !now.split_whitespace().any(|way| way == wanted) {
        let _ = fs::write(path, format!("{} {wanted}", now.trim()));
    }
}

/// Has the network that this thread is in share lines so.
pub fn control_congestion() {
    let way = congestion_control();
    if let Err(why) = fs::write("/proc/sys/net/ipv4/tcp_congestion_control", &way) {
        eprintln!("machines share lines as the host does, for it has no {way}: {why}");
    }
}
