//! The units as they were shipped, to compare with what is installed.

/// Each unit's name and text.
pub(super) const UNITS: &[(&str, &str)] = &[
    ("blat.target", include_str!("../../units/blat.target")),
    ("blat@.service", include_str!("../../units/blat@.service")),
    ("blat@.socket", include_str!("../../units/blat@.socket")),
    ("blat-config.path", include_str!("../../units/blat-config.path")),
    ("blat-config-again.service", include_str!("../../units/blat-config-again.service")),
    ("blat-config.service", include_str!("../../units/blat-config.service")),
    ("blat-notify@.path", include_str!("../../units/blat-notify@.path")),
    ("blat-notify@.service", include_str!("../../units/blat-notify@.service")),
    ("blat-stop@.target", include_str!("../../units/blat-stop@.target")),
    ("blat-sync@.path", include_str!("../../units/blat-sync@.path")),
    ("blat-sync@.service", include_str!("../../units/blat-sync@.service")),
    ("blat-sync@.timer", include_str!("../../units/blat-sync@.timer")),
    ("blat-tag.socket", include_str!("../../units/blat-tag.socket")),
    ("blat-tag@.service", include_str!("../../units/blat-tag@.service")),
    ("blat-tags@.path", include_str!("../../units/blat-tags@.path")),
    ("blat-tags@.timer", include_str!("../../units/blat-tags@.timer")),
    ("blat-transfer@.service", include_str!("../../units/blat-transfer@.service")),
    ("blat-web.service", include_str!("../../units/blat-web.service")),
    ("blat-web.socket", include_str!("../../units/blat-web.socket")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_known() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("units");
        let mut there: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|unit| unit.unwrap().file_name()).collect();
        let mut known: Vec<_> = UNITS.iter().map(|(name, _)| std::ffi::OsString::from(name)).collect();
        there.sort();
        known.sort();
        assert_eq!(known, there);
    }
}
