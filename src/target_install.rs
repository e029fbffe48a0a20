//! `blat target install`: has a target machine look after itself. The helper is put there, and does the
//! rest: the archive's folder, the transfer user's own units and their timers
//! ([`blat_target::install`]). What it says is shown as it comes.

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use crate::channel::{connect, over_ssh};
use crate::config::{Settings, There};
use crate::failure::{EXIT_PERSON, Failure, Needs, Result};
use crate::helper::Helper;
use crate::places::Places;
use crate::report::Reporter;
use crate::ssh::{Connection, Endpoint};

/// How long it may take to the next line: a service manager comes up in less.
const LINE_TIMEOUT: Duration = Duration::from_secs(120);
/// How much of what goes wrong is shown, in bytes.
const WORDS_MAX: u64 = 4096;

/// Sets the target up.
///
/// # Errors
/// What went wrong, or that a person has to do something there, as was said.
pub async fn install(settings: &Settings, places: &Places, helper: &Path) -> Result<()> {
    let helper = Helper::read(helper)?;
    let mut reporter = Reporter::to_the_log(settings.name.as_str());
    let endpoint = Endpoint::of(&over_ssh(settings)?.ssh);
    let connection = match Connection::attach(&places.control(), &endpoint).await {
        Some(connection) => connection,
        None => connect(settings, &mut reporter).await?,
    };
    let ended = over(&over_ssh(settings)?.there, &helper, &connection).await;
    connection.close().await;
    ended
}

async fn over(target: &There, helper: &Helper, connection: &Connection) -> Result<()> {
    let put = helper.ensure(connection, target).await?;
    let bin = &target.bin;
    println!("{} {bin}/blat-target", if put { "put the helper there:" } else { "the helper is there:" });
    look_after_itself(target, connection).await
}

/// Has the helper, which is there, set the rest up.
pub(crate) async fn look_after_itself(target: &There, connection: &Connection) -> Result<()> {
    let bin = &target.bin;
    let mut child = connection.start(&format!("{bin}/blat-target install")).await?;
    let (stdin, stdout, stderr) = (child.stdin().take(), child.stdout().take(), child.stderr().take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        return Err(Failure::later(anyhow!("ssh gave no channel")));
    };
    let wishes =
        format!("archive={}\nindex_at={}\npurge_at={}\n", target.archive, target.index_at, target.purge_at);
    stdin.write_all(wishes.as_bytes()).await.later("cannot tell the target what is to be set up")?;
    drop(stdin);
    let mut lines = BufReader::new(stdout).lines();
    loop {
        let next = timeout(LINE_TIMEOUT, lines.next_line()).await.later("the target does not go on")?;
        match next.later("cannot hear what the target says")? {
            Some(line) => println!("  {line}"),
            None => break,
        }
    }
    let mut words = String::new();
    let _ = timeout(LINE_TIMEOUT, stderr.take(WORDS_MAX).read_to_string(&mut words)).await;
    let status = child.wait().await.later("cannot tell how it ended on the target")?;
    let words = words.trim();
    match status.code() {
        Some(0) => Ok(()),
        Some(code) if code == i32::from(EXIT_PERSON) => Err(Failure::person(anyhow!(
            "a person is needed on the target, as told above{}",
            if words.is_empty() { String::new() } else { format!(": {words}") }
        ))),
        _ => Err(Failure::later(anyhow!("the target is not set up ({status}): {words}"))),
    }
}
