//! Executions and their tasks on a line of time: bars from start to end, coloured by status, beside what says it in words.

use super::html::Html;
use crate::model::{Status, Task, Time};

/// From when to when something lasted, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Lasted {
    pub(super) from: Time,
    pub(super) to: Time,
}

impl Lasted {
    /// What began and has not ended goes on until now; what has an end and no beginning is a moment.
    pub(super) fn of(times: [Option<Time>; 3], status: Status, now: Time) -> Option<Lasted> {
        let [created, started, finished] = times;
        let from = started.or(created).or(finished)?;
        let to = finished.unwrap_or(if status.is_finished() { from } else { now.max(from) });
        Some(Lasted { from, to: to.max(from) })
    }

    /// Of a task.
    pub(super) fn of_task(task: &Task, now: Time) -> Option<Lasted> {
        Lasted::of([task.created_at, task.started_at, task.finished_at], task.status, now)
    }

    /// Of all of them together.
    pub(super) fn of_all(all: impl Iterator<Item = Lasted>) -> Option<Lasted> {
        all.reduce(|one, other| Lasted { from: one.from.min(other.from), to: one.to.max(other.to) })
    }

    pub(super) fn ms(self) -> u64 {
        self.to.ms_since(self.from)
    }
}

/// The drawing's own width; the style gives it its size.
const WIDTH: f64 = 1000.0;
/// What lasted next to nothing can be seen, too.
const WIDTH_MIN: f64 = 8.0;

/// Bars below one another, all on the same line of time. What they say stands beside them in words.
pub(super) fn bars(h: &mut Html, whole: Lasted, bars: &[(Option<Lasted>, Status)]) {
    let rows = bars.len().max(1);
    let frame = format!("0 0 {WIDTH} {}", rows * 10);
    let height = (rows * 6).clamp(10, 40).to_string();
    let attributes = [
        ("class", "bars"),
        ("viewBox", frame.as_str()),
        ("preserveAspectRatio", "none"),
        ("height", &height),
        ("aria-hidden", "true"),
    ];
    h.el("svg", &attributes, |h| {
        for (row, (lasted, status)) in bars.iter().enumerate() {
            let Some(lasted) = lasted else { continue };
            let scale = |ms: u64| ms as f64 / whole.ms().max(1) as f64 * WIDTH;
            let width = scale(lasted.ms()).max(WIDTH_MIN);
            let x = scale(lasted.from.ms_since(whole.from)).min(WIDTH - width).max(0.0);
            let (x, width, y) = (format!("{x:.1}"), format!("{width:.1}"), (row * 10 + 1).to_string());
            let class = format!("bar {status}");
            let place =
                [("class", class.as_str()), ("x", &x), ("y", &y), ("width", &width), ("height", "8"), ("rx", "2")];
            h.el("rect", &place, |_| {});
        }
    });
}

/// How many tasks stand where: `2 succeeded, 1 failed`.
pub(super) fn said(tasks: &[Task]) -> String {
    let each = Status::ALL.into_iter().filter_map(|status| {
        let count = tasks.iter().filter(|task| task.status == status).count();
        (count > 0).then(|| format!("{count} {status}"))
    });
    let said = each.collect::<Vec<_>>().join(", ");
    if said.is_empty() { "no tasks".to_owned() } else { said }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let at = |s| Some(Time::from_seconds(s));
        let now = Time::from_seconds(100);
        let lasted = |from, to| Some(Lasted { from: Time::from_seconds(from), to: Time::from_seconds(to) });
        for (times, status, expected) in [
            ([at(1), at(2), at(5)], Status::Succeeded, lasted(2, 5)),
            ([at(1), None, at(5)], Status::Failed, lasted(1, 5)),
            ([at(1), at(2), None], Status::Running, lasted(2, 100)),
            ([at(1), at(2), None], Status::Succeeded, lasted(2, 2)),
            ([None, None, at(5)], Status::Succeeded, lasted(5, 5)),
            ([None, at(200), None], Status::Running, lasted(200, 200)),
            ([None, at(7), at(5)], Status::Succeeded, lasted(7, 7)),
            ([None, None, None], Status::Running, None),
        ] {
            assert_eq!(Lasted::of(times, status, now), expected, "{times:?}");
        }
    }

    #[test]
    fn a_bar_never_leaves_the_drawing() {
        let whole = Lasted { from: Time::from_seconds(0), to: Time::from_seconds(100) };
        let end = Lasted { from: Time::from_seconds(100), to: Time::from_seconds(100) };
        let mut h = Html::default();
        bars(&mut h, whole, &[(Some(whole), Status::Running), (Some(end), Status::Failed), (None, Status::Pending)]);
        let html = h.finish();
        assert!(html.contains("<rect class=\"bar running\" x=\"0.0\" y=\"1\" width=\"1000.0\""), "{html}");
        assert!(html.contains("<rect class=\"bar failed\" x=\"992.0\" y=\"11\" width=\"8.0\""), "{html}");
        assert_eq!(html.matches("<rect").count(), 2);
    }
}
