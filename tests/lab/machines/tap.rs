//! TAP devices: a network card whose frames a program reads and writes.
//!
//! As with any card, the kernel hands over segments of a stream as one large frame, which is to be cut on
//! the line, without check sums; and takes such ones. Without, it would take as long for the frames as
//! machines do for what is in them.

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

nix::ioctl_write_int_bad!(tun_set_offload, nix::request_code_write!(b'T', 208, size_of::<libc::c_uint>()));

/// What stands before each frame: the kernel's `struct virtio_net_hdr`.
const HEADER: usize = 10;
/// The longest frame with what stands before it: 64 KiB of IP, and Ethernet's header.
pub(super) const FRAME_MAX: usize = HEADER + 14 + (64 << 10);

/// How many bytes a frame, with what stands before it, is on the line: cut, with headers for each segment.
pub(super) fn line_bytes(frame: &[u8]) -> usize {
    let (header, frame) = frame.split_at(HEADER.min(frame.len()));
    let number =
        |at: usize| header.get(at..at + 2).map_or(0, |two| usize::from(two[0]) | usize::from(two[1]) << 8);
    let (segment, tcp) = (number(4), number(6));
    let Some(offset) = frame.get(tcp + 12).filter(|_| segment > 0) else { return frame.len() };
    let headers = tcp + usize::from(offset >> 4) * 4;
    let segments = frame.len().saturating_sub(headers).div_ceil(segment).max(1);
    frame.len() + (segments - 1) * headers
}

/// Makes a TAP device in the calling thread's network; it goes when the file is closed.
pub(super) fn open_tap(device: &str) -> Result<File> {
    let tap = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("opening /dev/net/tun")?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let mut request =
        InterfaceRequest { name: [0; libc::IFNAMSIZ], flags: libc::c_short::try_from(flags)?, rest: [0; 22] };
    request.name[..device.len()].copy_from_slice(device.as_bytes());
    // SAFETY: the request is a whole `ifreq` and outlives the call.
    unsafe { tun_set_interface(tap.as_raw_fd(), &request) }.context("making a TAP device")?;
    let offload = (libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6) as libc::c_int;
    // SAFETY: the argument is a plain number.
    unsafe { tun_set_offload(tap.as_raw_fd(), offload) }.context("having a TAP device take large frames")?;
    Ok(tap)
}
