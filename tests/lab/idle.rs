//! What targets cost that have nothing to do: the CPU of 200 agents with their connections, and the
//! memory of one; and how quick one of them is that has something to do.

use std::fmt::Write;
use std::time::Duration;

use crate::field::{Field, SOURCE};
use crate::latency;
use crate::line;
use crate::machines::{Machine, TRANSFER_USER, wait_until};

const COUNT: usize = 200;
const WINDOW: Duration = Duration::from_secs(60);
/// The promise: of one core, in percent; and resident, in MiB.
const CPU_MAX: f64 = 1.0;
const MEMORY_MAX: f64 = 6.0;
/// What runs for them.
const PROGRAMS: [(&str, &str); 3] =
    [("agents", "blat-agent"), ("their ssh", "ssh"), ("the manager", "systemd")];
/// The kernel's unit of CPU time in `/proc`.
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) fn measure() {
    let field = Field::new("idle");
    field.site.write("/etc/ssh/sshd_config.d/idle.conf", "MaxStartups 1000\n", 0o644);
    field.site.sh("systemctl restart ssh");
    field.site.as_user(TRANSFER_USER, "mkdir dpkg_archive");
    let mut files = String::from("cd /etc/blat/targets\n");
    let others = (1..COUNT).map(|number| format!("idle{number}"));
    for name in others.chain(["site1".into()]) {
        let text =
            format!("source = \"{SOURCE}\"\n[ssh]\nhost = \"site1\"\nidentity = \"/etc/blat/keys/site1\"\n");
        write!(files, "cat >.idle <<'end'\n{text}end\nmv .idle {name}.toml\n").expect("memory takes all");
    }
    field.master.write("/root/files", files, 0o755);
    field.master.sh("sh -eu /root/files");
    wait_until("all are connected", Duration::from_secs(600), || {
        let states = field.master.sh("systemctl show -P StatusText 'blat@*.service'");
        states.lines().filter(|state| state.starts_with("connected")).count() == COUNT
    });
    // What was started settles down: an agent is quiet a minute after the last that happened.
    std::thread::sleep(Duration::from_secs(90));
    let before = PROGRAMS.map(|(_, program)| ticks(&field.master, program));
    std::thread::sleep(WINDOW);
    let mut all = 0.0;
    for ((name, program), before) in PROGRAMS.into_iter().zip(before) {
        let spent = (ticks(&field.master, program) - before) as f64 / TICKS_PER_SECOND;
        let percent = 100.0 * spent / WINDOW.as_secs_f64();
        println!("  {COUNT} idle, {name}: {percent:.2} % of a core");
        all += percent;
    }
    line(&format!("{COUNT} idle targets: % of a core; the promise"), all, CPU_MAX);
    let largest = resident(&field.master).into_iter().fold(0.0, f64::max);
    line("an agent, resident: MiB; the promise", largest, MEMORY_MAX);
    latency::measure_beside(&field, COUNT);
    let down = field.master.sh("systemctl list-units --plain --no-legend --state=failed");
    assert!(down.is_empty(), "units failed:\n{down}");
    assert!(all < CPU_MAX && largest <= MEMORY_MAX, "more than promised, as told above");
}

/// User and system time of all processes of a program.
fn ticks(machine: &Machine, program: &str) -> u64 {
    let stats = machine.sh(&format!("cat /proc/[0-9]*/stat 2>/dev/null | grep -F '({program})' || true"));
    let of_process = |line: &str| {
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    stats.lines().filter_map(of_process).sum()
}

/// The memory of each agent, in MiB.
fn resident(machine: &Machine) -> Vec<f64> {
    let lines = machine.sh("for agent in $(pgrep -x blat-agent); do grep VmRSS: /proc/$agent/status; done");
    let sizes = lines.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    sizes.map(|kib| kib / 1024.0).collect()
}
