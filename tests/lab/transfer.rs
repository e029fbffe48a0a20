//! Fast transfer: from a tag to a committed package on the site.

use std::fs;
use std::time::Duration;

use crate::field::{Field, REAL_SOURCE, SOURCE, real_packages};
use crate::machines::wait_until;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_tag_becomes_a_committed_package() {
    let field = Field::with_target("through");
    field.publish("core_devl", "2.72.0");
    field.publish_link("core_devl", "current", "2.72.0");
    field.tag("site1", "core_devl", "current");
    field.wait_for("site1", "core_devl", "current", SOON);
    field.wait_no_tags("site1", SOON);
    field.assert_equal("site1", SOURCE, &[("core_devl".into(), "2.72.0".into())]);
    let link = fs::read_link(field.archive("site1").join("core_devl/current")).unwrap();
    assert_eq!(link.to_str(), Some("2.72.0"));
    wait_until("the agent tells of it", SOON, || {
        field.master.journal(&["-u", "blat@*"]).contains("committed core_devl/2.72.0")
    });
}

#[test]
fn real_packages_arrive_as_they_were() {
    let field = Field::new("real");
    field.add_target("site1", REAL_SOURCE, "");
    field.wait_connected("site1");
    let ids = real_packages(50);
    for (package, version) in &ids {
        field.tag("site1", package, version);
    }
    field.wait_no_tags("site1", Duration::from_secs(120));
    field.assert_equal("site1", REAL_SOURCE, &ids);
    assert!(field.staging("site1").is_empty());
}
