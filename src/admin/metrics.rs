//! `/metrics`: the figures as OpenMetrics 1.0 text, or as Prometheus' older text format (0.0.4) for those who ask for
//! it. Written by hand: families, their words, and nothing else.
//!
//! Promises: names begin with `callbackd_`, units are seconds and bytes, labels are configured names and words of
//! closed sets. Both formats hold the same series.

use std::fmt::Write;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::Full;

use crate::measure::{Answer as Answered, Counts, Gauge, Measures, OfSink, OfSource, Spread, Words};
use crate::model::Time;
use crate::server::respond::Answer;

/// How the text is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    OpenMetrics,
    Classic,
}

impl Format {
    /// What `Accept` likes best; OpenMetrics where it does not care.
    fn wanted(headers: &HeaderMap) -> Format {
        let (mut open, mut classic) = (None::<f64>, None::<f64>);
        for value in headers.get_all(ACCEPT) {
            for part in value.to_str().unwrap_or_default().split(',') {
                let mut fields = part.split(';').map(str::trim);
                let kind = fields.next().unwrap_or_default();
                let weight = fields.find_map(|field| field.strip_prefix("q=")?.trim().parse().ok()).unwrap_or(1.0);
                let liked = match kind {
                    "application/openmetrics-text" => &mut open,
                    "text/plain" => &mut classic,
                    _ => continue,
                };
                *liked = Some(liked.unwrap_or(0.0).max(weight));
            }
        }
        match classic.unwrap_or(0.0) > open.unwrap_or(0.0) {
            true => Format::Classic,
            false => Format::OpenMetrics,
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
        })
    }
}

/// The figures at `now`, in the format that is asked for.
pub(super) fn answer(measures: &Measures, is_ready: bool, headers: &HeaderMap, now: Time) -> Answer {
    let format = Format::wanted(headers);
    let mut response = Response::new(Full::new(text(measures, is_ready, format, now).into()));
    response.headers_mut().insert(CONTENT_TYPE, format.content_type());
    response
}

/// What a family of figures is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

type Labels<'l> = [(&'l str, &'l str)];

/// The text as it grows.
struct Page {
    text: String,
    format: Format,
    family: String,
}

impl Page {
    /// Begins a family; `name` is without prefix and without the suffix of its samples. A name's unit is its last word.
    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let unit = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit));
        let suffix = match kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        let word = match (kind, self.format) {
            (Kind::Counter, _) => "counter",
            (Kind::Histogram, _) => "histogram",
            (Kind::Info, Format::OpenMetrics) => "info",
            (Kind::Gauge | Kind::Info, _) => "gauge",
        };
        // The older format names the samples, the newer one what they have in common.
        let family = match self.format {
            Format::OpenMetrics => format!("callbackd_{name}"),
            Format::Classic => format!("callbackd_{name}{suffix}"),
        };
        let help = escaped(help);
        let _ = writeln!(self.text, "# TYPE {family} {word}");
        if let (Some(unit), Format::OpenMetrics) = (unit, self.format) {
            let _ = writeln!(self.text, "# UNIT {family} {unit}");
        }
        let _ = writeln!(self.text, "# HELP {family} {help}");
        self.family = format!("callbackd_{name}{suffix}");
    }

    /// One sample of the family.
    fn sample(&mut self, suffix: &str, labels: &Labels<'_>, value: impl std::fmt::Display) {
        let _ = write!(self.text, "{}{suffix}", self.family);
        for (place, (name, value)) in labels.iter().enumerate() {
            let _ = write!(self.text, "{}{name}=\"{}\"", if place == 0 { '{' } else { ',' }, escaped(value));
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// A family of one sample without labels; none where there is no figure.
    fn one(&mut self, name: &str, kind: Kind, help: &str, value: Option<impl std::fmt::Display>) {
        self.family(name, kind, help);
        if let Some(value) = value {
            self.sample("", &[], value);
        }
    }

    /// A sample for each word.
    fn counts<W: Words>(&mut self, counts: &Counts<W>, label: &str, of: (&str, &str), is_meant: impl Fn(W) -> bool) {
        for (word, count) in counts.each().filter(|(word, _)| is_meant(*word)) {
            self.sample("", &[of, (label, word.word())], count);
        }
    }

    /// A histogram's samples; `unit` of its values make one of the family's.
    fn spread(&mut self, spread: &Spread, labels: &Labels<'_>, unit: f64) {
        let mut below = 0;
        for (place, count) in spread.counts.iter().enumerate() {
            below += count;
            let le = spread.bounds.get(place).map_or("+Inf".to_owned(), |bound| format!("{:?}", *bound as f64 / unit));
            self.sample("_bucket", &[labels, &[("le", &le)]].concat(), below);
        }
        self.sample("_count", labels, below);
        self.sample("_sum", labels, spread.sum as f64 / unit);
    }
}

const MICROS: f64 = 1_000_000.0;

/// In help texts, and in the values of labels.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

fn seconds(time: Time) -> f64 {
    time.micros() as f64 / MICROS
}

fn text(measures: &Measures, is_ready: bool, format: Format, now: Time) -> String {
    let mut page = Page { text: String::with_capacity(16 << 10), format, family: String::new() };
    process(&mut page, measures, is_ready, now);
    sources(&mut page, measures);
    sinks(&mut page, &measures.sinks(), now);
    store(&mut page, measures);
    if format == Format::OpenMetrics {
        page.text.push_str("# EOF\n");
    }
    page.text
}

fn process(page: &mut Page, measures: &Measures, is_ready: bool, now: Time) {
    page.family("build", Kind::Info, "The version that runs.");
    page.sample("", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    let started_at = Some(seconds(measures.started_at));
    page.one("start_time_seconds", Kind::Gauge, "When the process began, since 1970.", started_at);
    let uptime = Some(now.ms_since(measures.started_at) as f64 / 1000.0);
    page.one("uptime_seconds", Kind::Gauge, "How long the process has run.", uptime);
    let ready = Some(u8::from(is_ready));
    page.one("ready", Kind::Gauge, "1 when a callback could be kept now, as /readyz says.", ready);
    #[cfg(feature = "otlp")]
    if let Some(lost) = measures.spans_lost.get() {
        let help = "Spans that the collector was never told: there was no room for them, or it refused them.";
        page.one("trace_spans_lost", Kind::Counter, help, Some(lost.get()));
    }
    let configuration = measures.configuration();
    let help = "1 while the configuration that was read last holds; 0 when it was refused, and the one before it does.";
    let is_taken = Some(u8::from(configuration.refused.is_none()));
    page.one("config_last_reload_successful", Kind::Gauge, help, is_taken);
    let help = "When the configuration that holds was read, since 1970.";
    let read_at = Some(seconds(configuration.read_at));
    page.one("config_last_reload_success_timestamp_seconds", Kind::Gauge, help, read_at);
}

fn sources(page: &mut Page, measures: &Measures) {
    let sources = measures.sources();
    let of = |source: &OfSource| source.name.to_string();
    page.family("receipts", Kind::Counter, "Callbacks that were kept, by what became of them.");
    for source in &sources {
        page.counts(&source.answers.counts(), "outcome", ("source", &of(source)), Answered::is_kept);
    }
    page.family("refusals", Kind::Counter, "Callbacks that were not acknowledged, by the reason.");
    for source in &sources {
        page.counts(&source.answers.counts(), "reason", ("source", &of(source)), |answer| !answer.is_kept());
    }
    page.sample("", &[("source", ""), ("reason", "no_such_path")], measures.no_such_path.get());
    page.family("ingest_seconds", Kind::Histogram, "From a callback's last byte until it is on disk, or refused.");
    for source in &sources {
        page.spread(&source.latency.spread(), &[("source", &of(source))], MICROS);
    }
    page.family("confirmations", Kind::Counter, "Held callbacks that were decided, by what their vendor said.");
    for source in &sources {
        page.counts(&source.confirmations.counts(), "outcome", ("source", &of(source)), |_| true);
    }
    let help = "When the last callback came that was kept, since 1970; none before the first since the start.";
    page.family("last_receipt_timestamp_seconds", Kind::Gauge, help);
    for source in &sources {
        if let Some(at) = source.last_at.get() {
            page.sample("", &[("source", &of(source))], at as f64 / MICROS);
        }
    }
}

fn sinks(page: &mut Page, sinks: &[std::sync::Arc<OfSink>], now: Time) {
    let each = |page: &mut Page, name: &str, kind: Kind, help: &str, value: &dyn Fn(&OfSink) -> f64| {
        page.family(name, kind, help);
        for sink in sinks {
            page.sample("", &[("sink", &sink.name)], value(sink));
        }
    };
    page.family("attempts", Kind::Counter, "Tries to deliver, by how they ended.");
    for sink in sinks {
        page.counts(&sink.tries.counts(), "outcome", ("sink", &sink.name), |_| true);
    }
    page.family("attempt_seconds", Kind::Histogram, "How long a try to deliver took.");
    for sink in sinks {
        page.spread(&sink.duration.spread(), &[("sink", &sink.name)], MICROS);
    }
    page.family(
        "delivery_delay_seconds",
        Kind::Histogram,
        "From a callback's receipt until the sink has taken its change.",
    );
    for sink in sinks {
        page.spread(&sink.delay.spread(), &[("sink", &sink.name)], MICROS);
    }
    let dead = |sink: &OfSink| sink.dead.get() as f64;
    each(page, "given_up", Kind::Counter, "Deliveries that became dead letters.", &dead);
    let dead = |sink: &OfSink| sink.standing().dead as f64;
    each(page, "dead_letters", Kind::Gauge, "Dead letters that nobody has retried or discarded yet.", &dead);
    let waiting = |sink: &OfSink| sink.standing().waiting as f64;
    each(page, "backlog", Kind::Gauge, "Deliveries that wait or are under way.", &waiting);
    let age = |sink: &OfSink| sink.standing().oldest_at.map_or(0.0, |at| now.ms_since(at) as f64 / 1000.0);
    each(page, "oldest_undelivered_seconds", Kind::Gauge, "The age of the oldest of these; 0 without any.", &age);
    let paused = |sink: &OfSink| f64::from(u8::from(sink.standing().is_paused));
    each(page, "sink_paused", Kind::Gauge, "1 while the sink is told nothing.", &paused);
    let open = |sink: &OfSink| f64::from(u8::from(sink.is_failing()));
    let help = "1 while the sink fails, and is only probed; 0 while nothing waits that it could be probed with.";
    each(page, "breaker_open", Kind::Gauge, help, &open);
}

fn store(page: &mut Page, measures: &Measures) {
    let of = &measures.store;
    page.family("commit_seconds", Kind::Histogram, "How long a commit took.");
    page.spread(&of.commit.spread(), &[], MICROS);
    page.family("commit_commands", Kind::Histogram, "How many callbacks, claims and settlements shared a commit.");
    page.spread(&of.batch.spread(), &[], 1.0);
    let failed = Some(of.failed.get());
    page.one("commit_failures", Kind::Counter, "Commits that failed, of which nothing was kept.", failed);
    let mut bytes = |name: &str, help: &str, gauge: &Gauge| page.one(name, Kind::Gauge, help, gauge.get());
    bytes("store_held_bytes", "What the store holds.", &of.held_bytes);
    bytes("store_free_bytes", "What the store's file has free within itself.", &of.free_bytes);
    bytes("store_log_bytes", "What the write-ahead log holds since it began anew.", &of.log_bytes);
    bytes("store_room_bytes", "What the store could hold beside that.", &of.room_bytes);
    bytes("store_disk_bytes", "The file system that the store is on.", &of.disk_bytes);
    if let Some(replicas) = of.replicas.get() {
        page.one("store_replicas", Kind::Gauge, "Callbackds that share the store and are there.", Some(replicas));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Tried;

    fn wanted(accept: &'static str) -> Format {
        let headers = [(ACCEPT, HeaderValue::from_static(accept))];
        Format::wanted(&headers.into_iter().collect())
    }

    #[test]
    fn who_asks_for_the_older_format_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for accept in ["*/*", "", "text/html,*/*;q=0.8", prometheus, "text/plain;q=0.3, application/openmetrics-text"] {
            assert_eq!(wanted(accept), Format::OpenMetrics, "{accept}");
        }
        for accept in ["text/plain", "text/plain; version=0.0.4", "application/openmetrics-text;q=0.1,text/plain;q=0.2"]
        {
            assert_eq!(wanted(accept), Format::Classic, "{accept}");
        }
        assert_eq!(Format::wanted(&HeaderMap::new()), Format::OpenMetrics);
    }

    #[test]
    fn a_family_says_what_it_is_in_either_format() {
        let t0 = Time::from_seconds(1_700_000_000);
        let measures = Measures::new(t0);
        measures.source("media").answers.add(Answered::Accepted);
        measures.sink("portal").tried(Tried::Delivered, 30, t0, t0.plus_ms(2_000));
        let open = text(&measures, true, Format::OpenMetrics, t0.plus_ms(1500));
        let classic = text(&measures, true, Format::Classic, t0.plus_ms(1500));
        for line in [
            "# TYPE callbackd_receipts counter",
            "callbackd_receipts_total{source=\"media\",outcome=\"accepted\"} 1",
            "callbackd_refusals_total{source=\"\",reason=\"no_such_path\"} 0",
            "# UNIT callbackd_attempt_seconds seconds",
            "callbackd_attempt_seconds_bucket{sink=\"portal\",le=\"0.025\"} 0",
            "callbackd_attempt_seconds_bucket{sink=\"portal\",le=\"0.05\"} 1",
            "callbackd_attempt_seconds_bucket{sink=\"portal\",le=\"+Inf\"} 1",
            "callbackd_attempt_seconds_sum{sink=\"portal\"} 0.03",
            "callbackd_delivery_delay_seconds_bucket{sink=\"portal\",le=\"5.0\"} 1",
            "callbackd_uptime_seconds 1.5",
            "# TYPE callbackd_build info",
        ] {
            assert!(open.lines().any(|given| given == line), "{line}\n{open}");
        }
        assert!(open.ends_with("\n# EOF\n"));
        assert!(classic.contains("# TYPE callbackd_receipts_total counter\n"), "{classic}");
        assert!(classic.contains("# TYPE callbackd_build_info gauge\n") && !classic.contains("# UNIT"));
        let samples = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
        };
        assert_eq!(samples(&open), samples(&classic));
        let held = |line: &&str| line.starts_with("callbackd_store_held_bytes");
        assert_eq!(open.lines().find(held), None, "what nobody has looked at is no figure");
    }

    #[test]
    fn labels_are_escaped() {
        let mut page = Page { text: String::new(), format: Format::Classic, family: "x".to_owned() };
        page.sample("", &[("sink", "a\"b\\c\nd")], 1);
        assert_eq!(page.text, "x{sink=\"a\\\"b\\\\c\\nd\"} 1\n");
    }
}
