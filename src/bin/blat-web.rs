//! The web pages, as `blat-web.service` runs them: on the socket that systemd hands over, until nobody
//! has asked for a while.
//!
//! A program of its own, so that what serves pages costs the agents no memory and a transfer no time.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use blat::config::{Period, Verbosity};
use blat::failure::{Failure, Needs, Result};
use blat::start::{block_on, end_at_a_panic};
use clap::Parser;
use libsystemd::activation::{FileDescriptor, IsType, receive_descriptors};

/// Shows how the targets of blat stand, as web pages
#[derive(Debug, Parser)]
#[command(name = "blat-web", version)]
struct Arguments {
    /// Find all files below this folder instead of `/` (for tests and trials)
    #[arg(long, default_value = "/", value_name = "FOLDER")]
    root: PathBuf,
    /// Listen here, where systemd hands no socket over; the address is printed
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// End when nobody has asked for so long; 0: never
    #[arg(long, default_value = "30s", value_name = "PERIOD")]
    idle: Period,
}

fn main() -> ExitCode {
    end_at_a_panic();
    blat::log::start(Verbosity::Info);
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("blat-web: {failure}");
            failure.into()
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let sockets = sockets(arguments.listen)?;
    let idle = Some(Duration::from(arguments.idle)).filter(|idle| !idle.is_zero());
    block_on(async {
        blat::web::serve(sockets, arguments.root, idle).await?;
        // Whoever still looks at a disk that does not answer is not waited for.
        std::process::exit(0)
    })
}

fn sockets(address: Option<SocketAddr>) -> Result<Vec<TcpListener>> {
    let handed = receive_descriptors(true).unwrap_or_default();
    if !handed.iter().all(IsType::is_inet) {
        return Err(Failure::person(anyhow::anyhow!(
            "blat-web.socket has a ListenStream= that is no address and port: take it away"
        )));
    }
    if !handed.is_empty() {
        // SAFETY: systemd hands the descriptors over, and nobody else takes them.
        let take = |descriptor: FileDescriptor| unsafe { TcpListener::from_raw_fd(descriptor.into_raw_fd()) };
        return Ok(handed.into_iter().map(take).collect());
    }
    let address = address.ok_or_else(|| {
        Failure::person(anyhow::anyhow!(
            "systemd hands no socket over: start blat-web.socket, or give --listen"
        ))
    })?;
    let listener = TcpListener::bind(address).person(format!("cannot listen on {address}"))?;
    println!("http://{}/", listener.local_addr().person("cannot tell the address")?);
    Ok(vec![listener])
}
