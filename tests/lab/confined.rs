//! What the unit of a transfer keeps its program from: the same is tried in it and by its user without it.
//! But for devices: in the lab's machines, `DevicePolicy=` has no effect.

use crate::field::Field;

/// Says which of these it can.
const TRIES: &str = r#"
    try() { name=$1; shift; if "$@" >/dev/null 2>&1; then echo "$name"; fi; }
    cd /
    try own-state touch /var/lib/blat/site1/tried
    try cache touch /var/cache/blat/tried
    try temporary touch /tmp/tried
    try tags touch /var/lib/blat/tags/site1/.tried
    try other-state touch /var/lib/blat/site2/tried
    try open-folder touch /srv/open/tried
    try home touch /home/open/tried
    try set-user-id chmod u+s /var/lib/blat/site1/tried
    try namespace unshare --user true
    try network bash -c 'exec 3<>/dev/tcp/127.0.0.1/22'
    try personality setarch linux32 true
    try priority renice -n 5 $$
    rm -f /var/cache/blat/tried /tmp/tried
"#;
const ALLOWED: [&str; 4] = ["own-state", "cache", "temporary", "tags"];
const KEPT_FROM: [&str; 8] =
    ["other-state", "open-folder", "home", "set-user-id", "namespace", "network", "personality", "priority"];

#[test]
fn a_transfer_can_do_nothing_but_its_work() {
    let field = Field::with_target("confined");
    let master = &field.master;
    master.sh("mkdir -m 777 /srv/open /home/open");
    master.sh("install -d -o blat -g blat /var/lib/blat/site2");
    master.write("/srv/tries", TRIES, 0o644);
    let plain = master.as_user("blat", "bash /srv/tries");
    master.sh("rm -f /srv/open/tried /var/lib/blat/site[12]/tried");
    master.sh("sed -e 's|^ExecStart=.*|ExecStart=bash /srv/tries|' -e '/^Condition/d; /^OnFailure/d' \
             -e '/^\\[Service\\]/a StandardOutput=truncate:/srv/told' \
         /usr/lib/systemd/system/blat-transfer@.service >/etc/systemd/system/tries@.service; \
         systemctl daemon-reload; systemctl start tries@site1");
    let confined = master.sh("cat /srv/told");
    let (plain, confined): (Vec<_>, Vec<_>) = (plain.lines().collect(), confined.lines().collect());
    println!("without the unit: {plain:?}, in it: {confined:?}");
    assert_eq!(confined, ALLOWED);
    assert_eq!(plain, [&ALLOWED[..], &KEPT_FROM].concat());
    assert_eq!(master.sh("ls /tmp/tried 2>/dev/null || true"), "", "its /tmp is its own");
}
