//! How the pages look: one sheet, light and dark as the reader's system is, and narrow where that is.

pub(super) const CSS: &str = include_str!("style.css");
pub(super) const ICON: &str = include_str!("icon.svg");
