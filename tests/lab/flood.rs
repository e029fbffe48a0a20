//! A flood of tags is one session.

use std::time::{Duration, Instant};

use crate::field::{Field, SOURCE};

const TAGS: usize = 1000;

#[test]
fn a_thousand_tags_at_once_arrive_over_one_session() {
    let field = Field::with_target("flood");
    field.publish("first", "1.0");
    field.tag("site1", "first", "1.0");
    field.wait_for("site1", "first", "1.0", Duration::from_secs(20));
    let ids: Vec<_> = (0..TAGS).map(|at| (format!("package{}", at / 10), format!("1.{}", at % 10))).collect();
    for (package, version) in &ids {
        field.publish(package, version);
    }
    count_sessions(&field);
    field.count_starts();
    let names = ids.iter().map(|(package, version)| format!("{package}::{version}\n"));
    field.master.write("/run/tags", names.collect::<String>(), 0o644);
    let begin = Instant::now();
    field.master.sh("cd /var/lib/blat/tags/site1 && xargs touch </run/tags");
    let dropped = begin.elapsed();
    field.wait_no_tags("site1", Duration::from_secs(120));
    let (took, sessions) = (begin.elapsed(), sessions(&field));
    println!(
        "{TAGS} tags were dropped in {dropped:?} and arrived after {took:?}, over {sessions} session(s), {} \
         start(s)",
        field.starts("site1")
    );
    // On a machine that is busy with other things they are not there at once.
    let most = 1 + dropped.as_millis() / 500;
    assert!(sessions as u128 <= most, "{sessions} sessions");
    assert!(ids.iter().all(|(package, version)| field.has("site1", package, version)));
    assert_eq!(field.active("blat-tags@site1.path"), "active");
    let some: Vec<_> = ids.into_iter().step_by(50).collect();
    field.assert_equal("site1", SOURCE, &some);
    field.assert_nothing_left("site1");
}

/// Has the helper's starts counted by a shell that starts it: sshd runs commands through the
/// user's login shell.
fn count_sessions(field: &Field) {
    let shell = "#!/bin/sh\n\
        case \"$2\" in *'blat-target serve') echo >>/home/pkgadmin/sessions ;; esac\n\
        exec /bin/sh \"$@\"\n";
    field.site.write("/usr/local/bin/counting-shell", shell, 0o755);
    field.site.sh("usermod --shell /usr/local/bin/counting-shell pkgadmin");
    // The connection that stands looked the shell up when it came up.
    field.master.sh("systemctl restart blat@site1");
    field.wait_connected("site1");
}

fn sessions(field: &Field) -> usize {
    std::fs::read(field.site.file("/home/pkgadmin/sessions")).map_or(0, |lines| lines.len())
}
