//! TAP devices: a network card whose frames a program reads and writes.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use nix::libc;

/// The kernel's `struct ifreq`, as far as it is used here.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

nix::ioctl_write_ptr_bad!(
    tun_set_interface,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    InterfaceRequest
);

/// Makes a TAP device in the calling thread's network; it goes when the file is closed.
pub(super) fn open_tap(device: &str) -> Result<File> {
    let tap = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("opening /dev/net/tun")?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI;
    let mut request =
        InterfaceRequest { name: [0; libc::IFNAMSIZ], flags: libc::c_short::try_from(flags)?, rest: [0; 22] };
    request.name[..device.len()].copy_from_slice(device.as_bytes());
    // SAFETY: the request is a whole `ifreq` and outlives the call.
    unsafe { tun_set_interface(tap.as_raw_fd(), &request) }.context("making a TAP device")?;
    Ok(tap)
}
