//! What the target says, and who is told of it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use blat_target::frame::{Frame, FrameError, HEADER_LEN, Header};
use blat_target::message::ToHost;
use openssh::ChildStdout;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::sync::mpsc;

use super::Heard;
use crate::failure::Failure;
use crate::lanes::{Came, Word};
use crate::progress::Progress;

/// Hears the target.
pub(super) struct Ear {
    pub(super) hear: mpsc::Sender<Heard>,
    /// What the target keeps of packages is for the packer, which waits for it.
    pub(super) answer: Sender<ToHost>,
    /// Where it is heard what the target says of lanes.
    pub(super) word: Arc<Word>,
    pub(super) progress: Progress,
}

impl Ear {
    /// Passes on what the target says, to its last word.
    pub(super) async fn listen(self, mut stdout: BufReader<ChildStdout>) {
        loop {
            let heard = match next(&mut stdout).await {
                Ok(said @ (ToHost::Partial(_) | ToHost::Kept(_) | ToHost::KeptPart { .. })) => {
                    self.progress.moved();
                    // A packer that is gone has said why.
                    let _ = self.answer.send(said);
                    continue;
                }
                // To the question by which the outlet says that this side lives.
                Ok(ToHost::Standing(places)) if places.is_empty() => {
                    self.progress.moved();
                    continue;
                }
                Ok(ToHost::Gathered) => {
                    self.word.gathered.notify_one();
                    continue;
                }
                Ok(ToHost::Came { place, lanes }) => {
                    self.progress.moved();
                    self.word.came(Came { place, lanes });
                    continue;
                }
                Ok(said) => {
                    self.progress.answered();
                    Heard::Said(said)
                }
                Err(why) => Heard::Broken(Failure::later(why)),
            };
            self.progress.moved();
            let last = matches!(heard, Heard::Broken(_) | Heard::Said(ToHost::Done { .. }));
            if self.hear.send(heard).await.is_err() || last {
                return;
            }
        }
    }
}

/// The target's next message.
pub(super) async fn next(stdout: &mut BufReader<ChildStdout>) -> Result<ToHost, FrameError> {
    let ended = |why: io::Error| match why.kind() {
        io::ErrorKind::UnexpectedEof => FrameError::Ended,
        _ => FrameError::Io(why),
    };
    let mut header = [0; HEADER_LEN];
    stdout.read_exact(&mut header).await.map_err(ended)?;
    let header = Header::parse(header)?;
    let mut payload = vec![0; header.length];
    stdout.read_exact(&mut payload).await.map_err(ended)?;
    match header.frame(payload)? {
        Frame::Message(message) => Ok(message),
        Frame::Data(_) => Err(FrameError::Io(io::Error::other("the target sent packed bytes"))),
    }
}
