//! How quickly many deliveries are changed: in steps that leave room for callbacks between them, and no more in a second
//! than an operator wants their peers to feel.

use std::str::FromStr;
use std::time::{Duration, Instant};

/// As many as one transaction of the store changes.
const STEP: u64 = 500;

/// So many in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate(f64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let (number, per) = text.split_once('/').unwrap_or((text, "s"));
        let seconds = match per {
            "s" => 1.0,
            "m" => 60.0,
            _ => 0.0,
        };
        match number.parse::<u32>() {
            Ok(number @ 1..) if seconds > 0.0 => Ok(Rate(f64::from(number) / seconds)),
            _ => Err("write a whole number above 0, and /s or /m, like \"100/s\"".to_owned()),
        }
    }
}

/// One run through many deliveries.
pub(super) struct Pace {
    rate: Option<Rate>,
    begun: Instant,
    done: u64,
}

impl Pace {
    pub(super) fn new(rate: Option<Rate>) -> Pace {
        Pace { rate, begun: Instant::now(), done: 0 }
    }

    /// How many at once: with a rate, those of a quarter of a second.
    pub(super) fn step(&self) -> u64 {
        self.rate.map_or(STEP, |rate| ((rate.0 / 4.0) as u64).clamp(1, STEP))
    }

    /// Waits until the rate allows the next ones.
    pub(super) async fn rest(&mut self, done: u64) {
        self.done += done;
        if let Some(due) = self.due() {
            tokio::time::sleep(due.saturating_sub(self.begun.elapsed())).await;
        }
    }

    /// When the next ones may follow, from the beginning on.
    fn due(&self) -> Option<Duration> {
        self.rate.map(|rate| Duration::from_secs_f64(self.done as f64 / rate.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_unit() {
        for (text, rate) in [("100/s", 100.0), ("100", 100.0), ("30/m", 0.5)] {
            assert_eq!(text.parse(), Ok(Rate(rate)), "{text}");
        }
        for text in ["", "0/s", "-1/s", "1.5/s", "10/h", "/s", "x"] {
            text.parse::<Rate>().expect_err(text);
        }
    }

    #[test]
    fn steps_are_small_and_keep_the_rate() {
        for (rate, step) in [(None, 500), (Some(100.0), 25), (Some(0.5), 1), (Some(1e6), 500)] {
            let mut pace = Pace::new(rate.map(Rate));
            assert_eq!(pace.step(), step);
            pace.done = 200;
            assert_eq!(pace.due(), rate.map(|rate| Duration::from_secs_f64(200.0 / rate)));
        }
    }
}
