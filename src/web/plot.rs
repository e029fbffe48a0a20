//! Plots as SVG inside the page: a figure with a caption that has its numbers in words.

use maud::{Markup, html};

use crate::state::Seconds;
use crate::told::{duration, size, time};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 160.0;
/// How many bars a plot of sums has.
const BARS: usize = 56;

/// What a plot's values are, and how they are written.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Duration,
    /// Durations that are told when they are summed up.
    Millis,
    Bytes,
}

impl Unit {
    fn show(self, value: u64) -> String {
        match self {
            Self::Duration => duration(value),
            Self::Millis if value < 1000 => format!("{value} ms"),
            Self::Millis => duration(value / 1000),
            Self::Bytes => size(value),
        }
    }
}

/// A time and its value.
pub(super) type Sample = (Seconds, u64);

/// A value over time, which holds until the next.
pub(super) fn steps(
    title: &str,
    id: &str,
    unit: Unit,
    from: Seconds,
    to: Seconds,
    samples: &[Sample],
) -> Markup {
    let inside: Vec<Sample> = samples.iter().copied().filter(|(at, _)| *at >= from && *at <= to).collect();
    let top = inside.iter().map(|(_, value)| *value).max().unwrap_or_default();
    let last = inside.last().map(|(_, value)| *value);
    let words = match last {
        None => "No synchronisation in this time.".to_owned(),
        Some(last) => format!("Last {}, at most {}.", unit.show(last), unit.show(top)),
    };
    let x = |at: Seconds| at.saturating_sub(from) as f64 / to.saturating_sub(from).max(1) as f64 * WIDTH;
    let y = |value: u64| HEIGHT - value as f64 / top.max(1) as f64 * (HEIGHT - 10.0) - 2.0;
    let mut path = String::new();
    for (nth, (at, value)) in inside.iter().enumerate() {
        let (x, y) = (x(*at), y(*value));
        path += &if nth == 0 { format!("M{x:.1} {y:.1}") } else { format!("H{x:.1}V{y:.1}") };
    }
    if !path.is_empty() {
        path += &format!("H{WIDTH:.1}");
    }
    figure(title, id, &words, (from, to), &html! { path class="line" d=(path) {} })
}

/// Sums over equal parts of the time.
pub(super) fn sums(
    title: &str,
    id: &str,
    unit: Unit,
    from: Seconds,
    to: Seconds,
    samples: &[Sample],
) -> Markup {
    let mut bars = [0_u64; BARS];
    let whole = to.saturating_sub(from).max(1);
    for (at, value) in samples.iter().filter(|(at, _)| *at >= from && *at <= to) {
        let place = ((at - from) as u128 * BARS as u128 / u128::from(whole)) as usize;
        bars[place.min(BARS - 1)] += value;
    }
    let (all, top) = (bars.iter().sum::<u64>(), bars.iter().copied().max().unwrap_or_default());
    let part = duration(whole / BARS as u64);
    let words = format!("{} in all, at most {} in {part}.", unit.show(all), unit.show(top));
    let wide = WIDTH / BARS as f64;
    let height = |value: u64| value as f64 / top.max(1) as f64 * (HEIGHT - 10.0);
    let inside = html! {
        @for (nth, value) in bars.iter().enumerate().filter(|(_, value)| **value > 0) {
            rect class="bar" x=(format!("{:.1}", nth as f64 * wide + 0.5))
                y=(format!("{:.1}", HEIGHT - height(*value)))
                width=(format!("{:.1}", wide - 1.0)) height=(format!("{:.1}", height(*value).max(1.0))) {}
        }
    };
    figure(title, id, &words, (from, to), &inside)
}

fn figure(title: &str, id: &str, words: &str, (from, to): (Seconds, Seconds), inside: &Markup) -> Markup {
    html! {
        figure {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-labelledby=(id) preserveAspectRatio="none" {
                line class="axis" x1="0" x2=(WIDTH) y1=(HEIGHT) y2=(HEIGHT) {}
                (inside)
            }
            figcaption {
                strong id=(id) { (title) } " " (words) br;
                span class="quiet" { (time(from)) " to " (time(to)) }
            }
        }
    }
}
