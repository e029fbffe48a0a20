//! `blat-target serve`: one session with a host, on standard input and output.
//!
//! The session ends well only with the host's `Done`. Whatever else ends it, what was
//! acknowledged stands, what came whole is committed, and what was staged is cleared: here,
//! or after a kill by a later session. Of a large package it is kept, for a later session to go on with.

mod talk;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::stat::{Mode, umask};

use self::talk::Talk;
use crate::aging::Aging;
use crate::archive::{Archive, located};
use crate::channel::{Input, Output, Pulse, SILENCE_MAX};
use crate::command_line::Allowed;
use crate::commit::Group;
use crate::frame::{Frame, HEADER_LEN, Header, MAGIC};
use crate::inflate::{Inflate, Intake};
use crate::lanes::Lanes;
use crate::message::{
    Digest, HostHello, Mend, PROTOCOL, PROTOCOL_OLDEST, Refusal, TargetHello, ToHost, ToTarget,
};
use crate::partial;
use crate::refusal::{End, shown};
use crate::sessions::clear_dead;
use crate::turn::Turns;

/// All went well.
pub const EXIT_DONE: u8 = 0;
/// The input is not a host's.
pub const EXIT_USAGE: u8 = 64;
/// Trying again later may help.
pub const EXIT_LATER: u8 = 75;
/// A person is needed.
pub const EXIT_PERSON: u8 = 78;

/// The BLAKE3 of the running executable.
pub fn build() -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open("/proc/self/exe")?)?;
    Ok(Digest(*hasher.finalize().as_bytes()))
}

/// Serves one session on standard input and output, within what is allowed.
pub fn serve(mut allowed: Allowed) -> ExitCode {
    let over_ssh = std::env::var_os("SSH_CONNECTION").is_some();
    let original = std::env::var_os("SSH_ORIGINAL_COMMAND");
    if let Some(what) = allowed.misused(over_ssh, original.as_deref()) {
        eprintln!("blat-target: this key serves blat and nothing else; {what} is not for it");
        return ExitCode::from(EXIT_USAGE);
    }
    if over_ssh && !allowed.hear(original.as_deref()) {
        eprintln!("blat-target: what follows --join is no channel of a session");
        return ExitCode::from(EXIT_USAGE);
    }
    // Modes are the manifest's, whatever the login shell thinks.
    umask(Mode::empty());
    let pulse = Arc::new(Pulse::new());
    let (Ok(input), Ok(output)) = (held(io::stdin()), held(io::stdout())) else {
        eprintln!("blat-target: standard input and output are needed");
        return ExitCode::from(EXIT_USAGE);
    };
    if let Some(lane) = allowed.lane {
        return joined(lane.join(&input));
    }
    let input = Input::new(std::mem::take(&mut allowed.said), input, SILENCE_MAX, pulse.clone());
    let output = Arc::new(Output::new(output));
    match converse(input, &output, pulse, &allowed) {
        Ok(code) => ExitCode::from(code),
        Err(End::Cut(why)) => {
            eprintln!("blat-target: {why}");
            ExitCode::from(EXIT_LATER)
        }
        Err(End::Failed(refusal)) => fail(&output, refusal),
    }
}

/// How a process ends that was a lane of another one's session.
fn joined(how: io::Result<()>) -> ExitCode {
    match how {
        Ok(()) => ExitCode::from(EXIT_DONE),
        Err(why) => {
            eprintln!("blat-target: no session took this channel: {why}");
            ExitCode::from(EXIT_LATER)
        }
    }
}

fn held(end: impl AsFd) -> io::Result<File> {
    Ok(File::from(end.as_fd().try_clone_to_owned()?))
}

fn fail(output: &Output, refusal: Refusal) -> ExitCode {
    let code = match refusal.mend {
        Mend::Later => EXIT_LATER,
        Mend::Person => EXIT_PERSON,
    };
    if let Err(End::Cut(_)) = output.say(&ToHost::Failed(refusal.clone())) {
        eprintln!("blat-target: {}", refusal.reason);
    }
    ExitCode::from(code)
}

fn converse(mut input: Input, output: &Arc<Output>, pulse: Arc<Pulse>, allowed: &Allowed) -> Result<u8, End> {
    output.raw(MAGIC)?;
    let mut magic = [0; MAGIC.len()];
    if input.read_exact(&mut magic).is_err() || magic != *MAGIC {
        eprintln!("blat-target: this speaks blat's protocol with a host; it is not for typing");
        return Ok(EXIT_USAGE);
    }
    let hello = hello(&mut input)?;
    if let Some(only) = &allowed.archive
        && located(only) != located(&hello.archive)
    {
        let (asked, only) = (shown(&hello.archive), shown(only));
        return Err(End::broken(format!("this key serves the archive {only} only, not {asked}")));
    }
    let archive = Archive::open(&hello.archive).map_err(End::Failed)?;
    let archive = Arc::new(Archive { pulse: pulse.clone(), ..archive });
    let protocol = hello.protocol.min(PROTOCOL);
    output.say(&ToHost::Hello(introduction(&archive, protocol)?))?;
    if protocol >= ToTarget::PROTOCOL_OF_PARTIALS {
        tell_partials(&archive, output)?;
    }
    let cleared = archive.clone();
    let clearing = std::thread::spawn(move || clear_dead(&cleared));
    pulse.clone().tell(output.clone());
    let turns = Arc::new(Turns::new(archive.clone()));
    let aging = Aging::new(archive.clone(), turns.clone(), &hello);
    let group = Group::new(archive.clone(), turns, output.clone(), pulse.clone());
    let inflate = Inflate::new(protocol).map_err(|why| End::Failed(Refusal::later(why.to_string())))?;
    let lanes = Lanes::new(output.clone());
    let intake = Intake { input, group, pulse, protocol, lanes };
    let replace = allowed.replace || !allowed.is_restricted();
    let mut talk = Talk::new(archive, aging, output.clone(), intake, inflate, replace);
    let done = talk.run();
    talk.leave();
    let _ = clearing.join();
    done.map(|()| EXIT_DONE)
}

/// Reads the host's hello, and refuses a host whose protocol is unknown here.
fn hello(input: &mut Input) -> Result<HostHello, End> {
    let mut header = [0; HEADER_LEN];
    input.read_exact(&mut header).map_err(|why| End::Cut(why.to_string()))?;
    let header = Header::parse(header)?;
    let mut payload = vec![0; header.length];
    input.read_exact(&mut payload).map_err(|why| End::Cut(why.to_string()))?;
    check_protocol(&payload)?;
    match header.frame(payload)? {
        Frame::Message(ToTarget::Hello(hello)) => Ok(hello),
        _ => Err(End::broken("the host did not start with a hello")),
    }
}

/// Reads only what each protocol to come has first, for the rest may be unreadable.
fn check_protocol(payload: &[u8]) -> Result<(), End> {
    const HELLO: u32 = 0;
    match postcard::take_from_bytes::<(u32, u16)>(payload) {
        Ok(((HELLO, spoken), _)) if !(PROTOCOL_OLDEST..=PROTOCOL).contains(&spoken) => {
            let version = env!("CARGO_PKG_VERSION");
            Err(End::broken(format!(
                "the host speaks protocol {spoken}, but the helper on the target, blat-target {version}, \
                 speaks {PROTOCOL_OLDEST} to {PROTOCOL}: bring both to one version"
            )))
        }
        _ => Ok(()),
    }
}

/// Says of which packages a part is kept, if there are any.
fn tell_partials(archive: &Archive, output: &Output) -> Result<(), End> {
    let partial = partial::list(archive);
    if partial.is_empty() { Ok(()) } else { output.say(&ToHost::Partial(partial)) }
}

fn introduction(archive: &Archive, protocol: u16) -> Result<TargetHello, End> {
    let build = build()
        .map_err(|why| End::Failed(Refusal::later(format!("could not read /proc/self/exe: {why}"))))?;
    let (free_bytes, free_inodes) = archive.free();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(TargetHello { protocol, build, version, clock, free_bytes, free_inodes })
}
