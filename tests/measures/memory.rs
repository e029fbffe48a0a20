//! The most anonymous memory that sending a large package takes, on both sides: with no other version
//! on the target, and told by one as large. Over a private sshd on loopback, with the programs as they
//! are installed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::line;
use crate::loopback::{Loopback, TARGET};
use crate::process::Memory;

/// What is promised, in MiB: on the target without a base and with one, and on the master.
const ALONE: f64 = 64.0;
const THERE: f64 = 256.0;
const HERE: f64 = 512.0;
/// The size of the package: one file of most of it, one of the rest, and many small ones.
const LARGE: usize = 700 << 20;
const SMALLER: usize = 300 << 20;
const SMALL: usize = 5000;

/// The peaks of a run, in MiB.
struct Peaks {
    here: f64,
    there: f64,
}

#[test]
fn memory_of_a_large_package() {
    let blat = Path::new(env!("CARGO_BIN_EXE_blat"));
    let helper = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/dist/blat-target");
    let world = Loopback::new(blat, &helper);
    publish(&world, "1.0", 1);
    let alone = transfer(&world, "1.0");
    line("1 GiB, no base: MiB on the master (promised)", alone.here, HERE);
    line("1 GiB, no base: MiB on the target (promised)", alone.there, ALONE);
    publish(&world, "1.1", 2);
    let told = transfer(&world, "1.1");
    line("1 GiB, told by 1 GiB: MiB on the master (promised)", told.here, HERE);
    line("1 GiB, told by 1 GiB: MiB on the target (promised)", told.there, THERE);
    let config = world.root().join("etc/blat/targets/site1.toml");
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace("[ssh]\n", "[ssh]\nmemory = \"128m\"\n");
    fs::write(&config, text.replace("[target]\n", "[target]\nmemory = \"32m\"\n")).unwrap();
    publish(&world, "1.2", 3);
    let bound = transfer(&world, "1.2");
    line("1 GiB, told by 1 GiB, ssh.memory: MiB on the master (set)", bound.here, 128.0);
    line("1 GiB, told by 1 GiB, target.memory: MiB on the target (set)", bound.there, 32.0);
    assert!(bound.here < 128.0 && bound.there < 32.0, "more than what is set");
    assert!(alone.there < ALONE && told.there < THERE, "too much on the target");
    assert!(alone.here < HERE && told.here < HERE, "too much on the master");
}

/// Half of it packs well; a version differs from others in every thousandth byte, and by what is put in.
fn publish(world: &Loopback, version: &str, generation: u8) {
    let folder = world.publish("large", version);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, size) in [("large", LARGE), ("smaller", SMALLER)] {
        let mut file = fs::File::create(folder.join(name)).unwrap();
        file.write_all(&vec![generation; usize::from(generation) * 100_000]).unwrap();
        let mut piece = vec![0; 1 << 20];
        for number in 0..size >> 20 {
            blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut piece[..512 << 10]);
            let (noise, rest) = piece.split_at_mut(512 << 10);
            rest.copy_from_slice(noise);
            (number..piece.len()).step_by(1009).for_each(|at| piece[at] = generation);
            file.write_all(&piece).unwrap();
        }
    }
    fs::create_dir(folder.join("small")).unwrap();
    for number in 0..SMALL {
        let content = format!("{number} {}", u64::from(generation) * (number % 10 == 0) as u64).repeat(200);
        fs::write(folder.join(format!("small/{number}")), content).unwrap();
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
}

fn transfer(world: &Loopback, version: &str) -> Peaks {
    world.tag("large", version);
    let mut run = world.start_transfer();
    let mut peaks = Peaks { here: 0.0, there: 0.0 };
    let helper = world.root().join("target/bin/blat-target");
    loop {
        if let Some(status) = run.try_wait().unwrap() {
            assert!(status.success(), "{TARGET}: {status}");
            return peaks;
        }
        peaks.here = peaks.here.max(anonymous(Path::new(&format!("/proc/{}", run.id()))));
        let all = fs::read_dir("/proc").unwrap().flatten();
        let helpers =
            all.filter(|item| fs::read_link(item.path().join("exe")).is_ok_and(|exe| exe == helper));
        helpers.for_each(|item| peaks.there = peaks.there.max(anonymous(&item.path())));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Of a process, in MiB.
fn anonymous(process: &Path) -> f64 {
    Memory::of(process).anonymous_kib as f64 / 1024.0
}
