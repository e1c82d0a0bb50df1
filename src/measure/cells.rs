//! What counts: atomics, of which a callback takes a few relaxed additions and no lock.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// A closed set of words that a figure is told apart by.
pub trait Words: Copy + PartialEq + 'static {
    /// All of them, each at its own place.
    const ALL: &'static [Self];

    /// Its place in [`Words::ALL`].
    fn place(self) -> usize;

    /// As it stands in labels.
    fn word(self) -> &'static str;
}

/// A closed set of words: an enum that is [`Words`].
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[$each])* $variant,)* }

        impl Words for $name {
            const ALL: &'static [$name] = &[$($name::$variant,)*];

            fn place(self) -> usize {
                self as usize
            }

            fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }
    };
}
pub(super) use words;

/// What only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What goes up and down; nothing until it was first set.
#[derive(Debug)]
pub struct Gauge(AtomicI64);

/// No figure: nobody has looked yet.
const UNSET: i64 = i64::MIN;

impl Default for Gauge {
    fn default() -> Gauge {
        Gauge(AtomicI64::new(UNSET))
    }
}

impl Gauge {
    /// It is this now.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// There is no such figure now.
    pub fn clear(&self) {
        self.0.store(UNSET, Ordering::Relaxed);
    }

    /// What it was set to last.
    pub fn get(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|value| *value != UNSET)
    }
}

/// One counter for each word.
#[derive(Debug)]
pub struct Counters<W>(Box<[Counter]>, PhantomData<W>);

impl<W: Words> Default for Counters<W> {
    fn default() -> Counters<W> {
        Counters(W::ALL.iter().map(|_| Counter::default()).collect(), PhantomData)
    }
}

impl<W: Words> Counters<W> {
    /// One more of these.
    pub fn add(&self, word: W) {
        self.0[word.place()].add();
    }

    /// All of them now.
    pub fn counts(&self) -> Counts<W> {
        Counts(self.0.iter().map(Counter::get).collect(), PhantomData)
    }
}

/// How many of each word: what [`Counters`] held at one time, or between two.
#[derive(Clone, Debug, PartialEq)]
pub struct Counts<W>(Box<[u64]>, PhantomData<W>);

impl<W: Words> Counts<W> {
    /// How many of this.
    pub fn of(&self, word: W) -> u64 {
        self.0[word.place()]
    }

    /// Each word with its count.
    pub fn each(&self) -> impl Iterator<Item = (W, u64)> + '_ {
        W::ALL.iter().map(|word| (*word, self.of(*word)))
    }

    /// How many of all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(super) fn since(&self, earlier: Option<&Counts<W>>) -> Counts<W> {
        let before = |place: usize| earlier.map_or(0, |earlier| earlier.0[place]);
        Counts(self.0.iter().enumerate().map(|(place, count)| count - before(place)).collect(), PhantomData)
    }
}

/// Bounds of times, in microseconds: from half a millisecond to a minute.
pub const TIMES: &[u64] = &[
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// Bounds of delays, in microseconds: from a hundredth of a second to three days.
pub const DELAYS: &[u64] = &[
    10_000,
    100_000,
    1_000_000,
    5_000_000,
    15_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
    21_600_000_000,
    86_400_000_000,
    259_200_000_000,
];

/// Bounds of sizes.
pub const SIZES: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096];

/// How values are spread over fixed buckets.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// How many up to each bound and above the one before it; at the end, those above all.
    buckets: Box<[Counter]>,
    sum: AtomicU64,
}

impl Histogram {
    /// With these upper bounds, rising.
    pub fn new(bounds: &'static [u64]) -> Histogram {
        let buckets = (0..=bounds.len()).map(|_| Counter::default()).collect();
        Histogram { bounds, buckets, sum: AtomicU64::new(0) }
    }

    /// One more value.
    pub fn add(&self, value: u64) {
        self.buckets[self.bounds.partition_point(|bound| *bound < value)].add();
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// One more time, in a histogram of microseconds.
    pub fn add_time(&self, time: Duration) {
        self.add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX >> 16));
    }

    /// What it holds now.
    pub fn spread(&self) -> Spread {
        let counts = self.buckets.iter().map(Counter::get).collect();
        Spread { bounds: self.bounds, counts, sum: self.sum.load(Ordering::Relaxed) }
    }
}

/// What a [`Histogram`] held at one time, or between two.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// The upper bounds of all buckets but the last, which has none.
    pub bounds: &'static [u64],
    /// How many in each bucket.
    pub counts: Box<[u64]>,
    /// All values together.
    pub sum: u64,
}

impl Spread {
    /// How many values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their mean; `None` without any.
    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum as f64 / count as f64)
    }

    /// The value below which the share `q` of all lies, as far as buckets tell: within one, values are taken to lie evenly.
    /// `None` without any.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = self.count() as f64 * q.clamp(0.0, 1.0);
        let (mut below, mut lower) = (0.0, 0.0);
        for (place, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let lower_bound = place.checked_sub(1).map_or(0.0, |before| self.bounds[before] as f64);
            // Above the last bound nothing is known but that.
            let Some(upper) = self.bounds.get(place) else { return Some(lower_bound) };
            lower = lower_bound + (*upper as f64 - lower_bound) * ((rank - below) / *count as f64).clamp(0.0, 1.0);
            below += *count as f64;
            if below >= rank {
                return Some(lower);
            }
        }
        (below > 0.0).then_some(lower)
    }

    /// Both together; they have the same bounds.
    #[must_use]
    pub fn and(mut self, other: &Spread) -> Spread {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum += other.sum;
        self
    }

    pub(super) fn none(bounds: &'static [u64]) -> Spread {
        Spread { bounds, counts: vec![0; bounds.len() + 1].into(), sum: 0 }
    }

    pub(super) fn since(&self, earlier: Option<&Spread>) -> Spread {
        let before = |place: usize| earlier.map_or(0, |earlier| earlier.counts[place]);
        let counts = self.counts.iter().enumerate().map(|(place, count)| count - before(place)).collect();
        Spread { counts, sum: self.sum - earlier.map_or(0, |earlier| earlier.sum), ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new(SIZES);
        for value in [0, 1, 2, 3, 4, 5000] {
            histogram.add(value);
        }
        let spread = histogram.spread();
        assert_eq!(spread.counts[..4], [2, 1, 2, 0]);
        assert_eq!((spread.counts.last(), spread.count(), spread.sum), (Some(&1), 6, 5010));
        let later = Histogram::new(SIZES).spread().and(&spread);
        assert_eq!(later.since(Some(&spread)), Spread::none(SIZES));
    }

    #[test]
    fn a_quantile_is_as_exact_as_its_bucket() {
        let histogram = Histogram::new(TIMES);
        assert_eq!(histogram.spread().quantile(0.99), None);
        for _ in 0..98 {
            histogram.add(800);
        }
        histogram.add(7_000);
        histogram.add(u64::from(u32::MAX));
        let spread = histogram.spread();
        let p = |q| spread.quantile(q).expect("some");
        assert!((500.0..=1_000.0).contains(&p(0.5)), "{}", p(0.5));
        assert!((5_000.0..=10_000.0).contains(&p(0.985)), "{}", p(0.985));
        assert_eq!(p(1.0), 60_000_000.0, "above the last bound");
        assert!((500.0..=1_000.0).contains(&p(0.0)), "{}", p(0.0));
    }

    #[test]
    fn a_gauge_is_nothing_until_it_is_set() {
        let gauge = Gauge::default();
        assert_eq!(gauge.get(), None);
        gauge.set(0);
        assert_eq!(gauge.get(), Some(0));
        gauge.clear();
        assert_eq!(gauge.get(), None);
    }
}
