//! Plots of the last hour and day: columns, drawn on the server, coloured by the style, and said in words, too.

use super::html::{Html, count, when};
use crate::measure::{Answer, Minute, Spread, Tried};
use crate::model::Time;

/// How far back, and in how many columns.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) title: &'static str,
    column_ms: u64,
    columns: usize,
    each: &'static str,
}

pub(super) const HOUR: Span = Span { title: "Last hour", column_ms: 60_000, columns: 60, each: "a minute" };
pub(super) const DAY: Span = Span { title: "Last day", column_ms: 900_000, columns: 96, each: "in 15 minutes" };

/// How the series of one column stand to one another.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// One beside the other.
    Beside,
    /// One on top of the other.
    Stacked,
    /// One before the other, the last in front.
    Before,
}

/// One plot.
struct Plot {
    title: &'static str,
    form: Form,
    /// Each with its class.
    series: &'static [(&'static str, &'static str)],
    /// Of each column, the values of the series; nothing where nobody was there to count.
    columns: Vec<Option<Vec<f64>>>,
    say: fn(f64) -> String,
}

/// Throughput, latency and outcomes of the span that ends at `now`.
pub(super) fn plots(h: &mut Html, span: Span, history: &[Minute], now: Time) {
    let begin = now.micros() / 1000 - (span.column_ms * span.columns as u64) as i64;
    let mut gathered: Vec<Vec<&Minute>> = vec![Vec::new(); span.columns];
    for minute in history {
        let place = (minute.at.micros() / 1000 - begin) / span.column_ms as i64;
        if let Some(column) = usize::try_from(place).ok().and_then(|place| gathered.get_mut(place)) {
            column.push(minute);
        }
    }
    let columns = |values: fn(&[&Minute]) -> Vec<f64>| -> Vec<Option<Vec<f64>>> {
        gathered.iter().map(|minutes| (!minutes.is_empty()).then(|| values(minutes))).collect()
    };
    let whole: fn(f64) -> String = |value| count(value as u64);
    h.el("div", &[("class", "plots")], |h| {
        for plot in [
            Plot {
                title: "Throughput",
                form: Form::Beside,
                series: &[("callbacks kept", "one"), ("deliveries made", "two")],
                columns: columns(|minutes| vec![sum(minutes, kept), sum(minutes, |m| tried(m, &[Tried::Delivered]))]),
                say: whole,
            },
            Plot {
                title: "Time to the 2xx",
                form: Form::Before,
                series: &[("99 of 100 within", "faint"), ("half within", "one")],
                columns: columns(|minutes| {
                    let all = minutes.iter().map(|m| m.latency.clone()).reduce(|all, more| all.and(&more));
                    [0.99, 0.5].map(|q| all.as_ref().and_then(|all: &Spread| all.quantile(q)).unwrap_or(0.0)).to_vec()
                }),
                say: |us| {
                    if us < 10_000.0 { format!("{:.1} ms", us / 1000.0) } else { format!("{:.0} ms", us / 1000.0) }
                },
            },
            Plot {
                title: "How tries to deliver ended",
                form: Form::Stacked,
                series: &[("delivered", "good"), ("to be tried again", "wary"), ("refused", "bad")],
                columns: columns(|minutes| {
                    vec![
                        sum(minutes, |m| tried(m, &[Tried::Delivered])),
                        sum(minutes, |m| tried(m, &[Tried::Retry])),
                        sum(minutes, |m| tried(m, &[Tried::Reject, Tried::Halt])),
                    ]
                }),
                say: whole,
            },
        ] {
            plot.draw(h, span, now);
        }
    });
}

fn sum(minutes: &[&Minute], of: impl Fn(&Minute) -> u64) -> f64 {
    minutes.iter().map(|minute| of(minute)).sum::<u64>() as f64
}

/// Callbacks of a minute that were kept.
pub(super) fn kept(minute: &Minute) -> u64 {
    let kept = |(_, counts): &(_, crate::measure::Counts<Answer>)| -> u64 {
        counts.each().filter(|(answer, _)| answer.is_kept()).map(|(_, count)| count).sum()
    };
    minute.answers.iter().map(kept).sum()
}

fn tried(minute: &Minute, words: &[Tried]) -> u64 {
    minute.tries.iter().flat_map(|(_, counts)| words.iter().map(|word| counts.of(*word))).sum()
}

/// The drawing's own measures; the style gives it its size.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 100.0;

impl Plot {
    fn draw(&self, h: &mut Html, span: Span, now: Time) {
        let height = |column: &Vec<f64>| match self.form {
            Form::Stacked => column.iter().sum(),
            Form::Beside | Form::Before => column.iter().copied().fold(0.0, f64::max),
        };
        let highest = self.columns.iter().flatten().map(height).fold(0.0, f64::max);
        let top = nice(highest);
        let unknown = self.columns.iter().take_while(|column| column.is_none()).count();
        h.el("figure", &[], |h| {
            h.el("figcaption", &[], |h| {
                h.leaf("strong", &[], self.title);
                h.el("span", &[("class", "legend")], |h| {
                    for (name, class) in self.series {
                        h.leaf("span", &[("class", &format!("key {class}"))], name);
                    }
                });
            });
            h.el("div", &[("class", "plot")], |h| {
                h.leaf("span", &[("class", "top"), ("aria-hidden", "true")], &(self.say)(top));
                let label = self.words(span, highest, unknown);
                let frame = format!("0 0 {WIDTH} {HEIGHT}");
                let attributes = [
                    ("viewBox", frame.as_str()),
                    ("preserveAspectRatio", "none"),
                    ("role", "img"),
                    ("aria-label", &label),
                ];
                h.el("svg", &attributes, |h| self.columns(h, span, now, top, unknown));
                h.el("span", &[("class", "ends"), ("aria-hidden", "true")], |h| {
                    for text in if span.columns == 60 { ["−60 min", "now"] } else { ["−24 h", "now"] } {
                        h.leaf("span", &[], text);
                    }
                });
            });
        });
    }

    fn columns(&self, h: &mut Html, span: Span, now: Time, top: f64, unknown: usize) {
        let width = WIDTH / span.columns as f64;
        if unknown > 0 {
            rect(h, "unknown", [0.0, 0.0, width * unknown as f64, HEIGHT]);
        }
        for (place, column) in self.columns.iter().enumerate() {
            let Some(column) = column.as_ref().filter(|column| column.iter().any(|value| *value > 0.0)) else {
                continue;
            };
            h.el("g", &[], |h| {
                let before = span.column_ms * (span.columns - place) as u64;
                let begin = Time::from_micros(now.micros() - before as i64 * 1000);
                let said: Vec<_> = self
                    .series
                    .iter()
                    .zip(column)
                    .map(|((name, _), value)| format!("{name}: {}", (self.say)(*value)))
                    .collect();
                h.leaf("title", &[], &format!("from {}: {}", when(begin), said.join(", ")));
                let (left, mut below) = (place as f64 * width, 0.0);
                let shown = width * 0.84;
                for (nth, ((_, class), value)) in self.series.iter().zip(column).enumerate() {
                    // What there is can be seen, however little.
                    let tall = if *value > 0.0 { (value / top * HEIGHT).max(1.5) } else { 0.0 };
                    let (x, w) = match self.form {
                        Form::Beside => (left + nth as f64 * shown / 2.0, shown / 2.0),
                        Form::Stacked | Form::Before => (left, shown),
                    };
                    rect(h, class, [x, HEIGHT - below - tall, w, tall]);
                    below += if self.form == Form::Stacked { tall } else { 0.0 };
                }
            });
        }
    }

    /// The same for who does not see it.
    fn words(&self, span: Span, highest: f64, unknown: usize) -> String {
        let since = if unknown > 0 { ", as far as this process was there" } else { "" };
        let names: Vec<_> = self.series.iter().map(|(name, _)| *name).collect();
        let most = (self.say)(highest);
        format!(
            "{}, {}{since}: {}; at most {most} {}",
            self.title,
            span.title.to_lowercase(),
            names.join(", "),
            span.each
        )
    }
}

fn rect(h: &mut Html, class: &str, [x, y, width, height]: [f64; 4]) {
    if height <= 0.0 {
        return;
    }
    let number = |n: f64| format!("{n:.1}");
    let (x, y, width, height) = (number(x), number(y), number(width), number(height));
    h.el("rect", &[("class", class), ("x", &x), ("y", &y), ("width", &width), ("height", &height)], |_| {});
}

/// The next round number: 1, 2 or 5 of a power of ten.
fn nice(highest: f64) -> f64 {
    if highest <= 1.0 {
        return 1.0;
    }
    let power = 10_f64.powf(highest.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= highest).unwrap_or(highest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Measures;

    #[test]
    fn a_plot_s_top_is_round() {
        for (highest, top) in
            [(0.0, 1.0), (0.4, 1.0), (1.2, 2.0), (3.0, 5.0), (7.0, 10.0), (10.0, 10.0), (1_100.0, 2_000.0)]
        {
            assert_eq!(nice(highest), top);
        }
    }

    #[test]
    fn what_was_counted_is_drawn_and_said() {
        let t0 = Time::from_seconds(1_700_000_000);
        let measures = Measures::new(t0);
        let media = measures.source("media");
        (0..3).for_each(|_| media.answers.add(Answer::Accepted));
        media.answers.add(Answer::Unauthorized);
        media.latency.add(2_000);
        measures.sink("portal").tries.add(Tried::Retry);
        let now = t0.plus_ms(600_000);
        let mut h = Html::default();
        plots(&mut h, HOUR, &measures.history(now), now);
        let html = h.finish();
        for part in [
            "Throughput, last hour, as far as this process was there: callbacks kept, deliveries made; at most 3 a minute",
            "How tries to deliver ended, last hour, as far as this process was there: delivered, to be tried again, refused; at most 1 a minute",
            "<rect class=\"wary\"",
            "from 2023-11-14 22:13:20 UTC: callbacks kept: 3, deliveries made: 0",
            "<rect class=\"unknown\" x=\"0.0\" y=\"0.0\" width=\"800.0\" height=\"100.0\">",
        ] {
            assert!(html.contains(part), "{part}\n{html}");
        }
        assert_eq!(html.matches("<svg").count(), 3);
    }
}
