//! The sinks: webhooks, Port, ASTROM and Zabbix, each behind a front; and what each of them says that it took.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::ops::RangeInclusive;

use fastrand::Rng;
use serde_json::{Value, json};

use super::front::{Asked, Behind, Front, Whim};
use super::judge::{self, End, Findings, Reported, Rule, Step};
use super::senders::{MEDIA, PORT_SECRET, PORTAL};
use super::story::Story;
use crate::peers::astrom::{self, FakeAstrom};
use crate::peers::port::{CLIENT_ID, CLIENT_SECRET, FakePort};
use crate::peers::zabbix::{self, FakeZabbix};

/// The sink that is told only what is newest.
pub(super) const NEWEST: &str = "newest";

/// Everybody who is told.
pub(super) struct Sinks {
    /// By the sink's name.
    fronts: BTreeMap<&'static str, Front>,
    port: FakePort,
    astrom: FakeAstrom,
    zabbix: FakeZabbix,
}

impl Sinks {
    pub(super) fn start(rng: &mut Rng) -> Sinks {
        let (port, astrom, zabbix) = (FakePort::start(), FakeAstrom::start(), FakeZabbix::start("7.0.3"));
        let at = |url: &str| {
            let rest = url.strip_prefix("http://").expect("a URL");
            rest.split('/').next().expect("an address").parse().expect("an address")
        };
        let fronts = [
            ("one", Behind::Nobody),
            ("two", Behind::Nobody),
            (NEWEST, Behind::Nobody),
            ("port", Behind::Peer(port.address(), port_refuses)),
            ("astrom", Behind::Peer(at(&astrom.url()), astrom_refuses)),
            ("zbx", Behind::Peer(at(&zabbix.url()), zabbix_refuses)),
        ];
        let fronts = fronts.into_iter().map(|(name, behind)| (name, Front::start(rng.fork(), behind))).collect();
        Sinks { fronts, port, astrom, zabbix }
    }

    pub(super) fn fronts(&self) -> Vec<(&'static str, &Front)> {
        self.fronts.iter().map(|(name, front)| (*name, front)).collect()
    }

    /// What Port knows before anybody tells of it.
    pub(super) fn begins(&self, story: &Story) {
        if let Some(run) = &story.asked {
            self.port.add_run(run);
        }
    }

    /// The configuration under which all of them are told; what is told to whom is the same in every `variant`.
    pub(super) fn config(&self, variant: u32) -> String {
        let url = |name: &str| self.fronts[name].url();
        let breaker_failures = [10, 3][variant as usize / 2 % 2];
        let common = format!(
            "timeout = \"1s\"\nretry_first = \"50ms\"\nretry_longest = \"500ms\"\nbreaker_probe = \"100ms\"\n\
             breaker_failures = {breaker_failures}"
        );
        let concurrency = [32, 2, 8][variant as usize % 3];
        let (queue_max, readers, connections_max) = [(4096, 2, 1024), (64, 1, 16)][variant as usize / 3 % 2];
        let mut text = format!(
            "server.drain_timeout = \"3s\"\nserver.connections_max = {connections_max}\n\
             store.queue_max = {queue_max}\nstore.readers = {readers}\n\
             [sources.media]\nkind = \"cos_workflow\"\npath = {MEDIA_PATH:?}\ntoken = \"t0ken\"\nexpect_within = \"36500d\"\n\
             [sources.portal]\nkind = \"port_action\"\npath = {PORTAL:?}\nsecret = {PORT_SECRET:?}\n\
             [[links]]\nof = \"media\"\nkey = '.execution.attributes.object'\n\
             with = \"portal\"\nwith_key = '.execution.inputs.object'\n\
             [sinks.one]\nkind = \"webhook\"\nurl = \"{one}\"\n{common}\n\
             [sinks.two]\nkind = \"webhook\"\nurl = \"{two}/hooks\"\nconcurrency = {concurrency}\n{common}\n\
             [sinks.{NEWEST}]\nkind = \"webhook\"\nurl = \"{newest}\"\ncoalesce = true\n{common}\n\
             [sinks.port]\nkind = \"port_run\"\nurl = \"{port}\"\nclient_id = {CLIENT_ID:?}\n\
             client_secret = {CLIENT_SECRET:?}\n{common}\n\
             [sinks.astrom]\nkind = \"klyuch_astrom\"\nurl = \"{astrom}/e/{environment}\"\ntoken = {token:?}\n{common}\n\
             [sinks.zbx]\nkind = \"zabbix\"\nurl = \"{zbx}/zabbix/api_jsonrpc.php\"\ntoken = {zabbix_token:?}\n\
             via = \"history\"\n{common}\n",
            MEDIA_PATH = MEDIA.trim_end_matches("/t0ken"),
            one = url("one"),
            two = url("two"),
            newest = url(NEWEST),
            port = url("port"),
            astrom = url("astrom"),
            environment = astrom::ENVIRONMENT,
            token = astrom::TOKEN,
            zbx = url("zbx"),
            zabbix_token = zabbix::TOKEN,
        );
        let mut route = |from: &str, when: &str, to: &[&str]| {
            let when = if when.is_empty() { String::new() } else { format!("when = '{when}'\n") };
            write!(text, "[[routes]]\nfrom = [{from:?}]\n{when}to = {to:?}\n").expect("a text");
        };
        // A sink that several routes lead to is told once.
        match variant % 2 {
            0 => route("media", "", &["one", "two", NEWEST]),
            _ => {
                route("media", ".change.sequence == 1", &["one", "two", NEWEST]);
                route("media", ".change.sequence != 1", &["one", "two", NEWEST]);
                route("media", ".execution.status == \"failed\"", &["two"]);
            }
        }
        route("portal", "", &["one", "two"]);
        route("media", ASKED, &["port"]);
        route("media", ENDED, &["astrom"]);
        route("media", NUMBERED, &["zbx"]);
        text
    }

    /// Holds what each sink took against what it had to be told; returns how much that is, and how often something came
    /// again.
    pub(super) fn judge(&self, stories: &[Story], findings: &mut Findings) -> (usize, usize) {
        let places = |wanted: &dyn Fn(&Story) -> Option<RangeInclusive<i64>>| -> BTreeMap<_, _> {
            stories.iter().filter_map(|story| Some((story.key.clone(), wanted(story)?))).collect()
        };
        let media = places(&|story| Some(1..=story.changes()));
        let mut both = media.clone();
        both.extend(stories.iter().filter_map(|story| Some((story.asked.clone()?, 1..=2))));
        let ends = places(&|story| is_numbered(&story.key).then(|| story.changes()..=story.changes()));
        let some = places(&|story| is_numbered(&story.key).then(|| 1..=story.changes()));
        let steps = |name: &str| self.fronts[name].steps();
        let told = [
            judge::sink("one", Rule::Each, &both, &steps("one"), findings),
            judge::sink("two", Rule::Each, &both, &steps("two"), findings),
            judge::sink(NEWEST, Rule::Newest, &media, &steps(NEWEST), findings),
            judge::sink("astrom", Rule::Each, &ends, &self.astrom_steps(&ends), findings),
            judge::sink("zbx", Rule::Each, &some, &self.zabbix_steps(stories), findings),
            self.judge_port(stories, findings),
        ];
        told.iter().fold((0, 0), |sum, told| (sum.0 + told.0, sum.1 + told.1))
    }

    /// Every event that is there.
    fn astrom_steps(&self, ends: &BTreeMap<String, RangeInclusive<i64>>) -> Vec<Step> {
        let step = |event: &Value| {
            let text = |key: &str| event["properties"][key].as_str().expect("a text").to_owned();
            let key = text("callbackd.run_id");
            let place = ends.get(&key).map_or(0, |places| *places.end());
            let came = Step { key, place, delivery: text("callbackd.delivery"), end: End::Came };
            [came.clone(), Step { end: End::Taken, ..came }]
        };
        self.astrom.events().iter().flat_map(step).collect()
    }

    /// Every value that is there.
    fn zabbix_steps(&self, stories: &[Story]) -> Vec<Step> {
        let stories: HashMap<&str, &Story> = stories.iter().map(|story| (&*story.key, story)).collect();
        let step = |pushed: zabbix::Pushed| {
            let value: Value = serde_json::from_str(&pushed.value).expect("JSON");
            let text = |key: &str| value[key].as_str().expect("a text").to_owned();
            let (key, tasks) = (text("run"), value["tasks"].as_i64().expect("a number"));
            let place = stories.get(&*key).map_or(0, |story| story.place(&text("status"), tasks));
            // Two values of one moment are one to Zabbix.
            let came = Step { key, place, delivery: format!("{}.{}", pushed.clock, pushed.ns), end: End::Came };
            [came.clone(), Step { end: End::Taken, ..came }]
        };
        self.zabbix.pushed().into_iter().flat_map(step).collect()
    }

    fn judge_port(&self, stories: &[Story], findings: &mut Findings) -> (usize, usize) {
        let expected = stories.iter().filter_map(|story| {
            Some(Reported {
                run: story.asked.clone()?,
                status: if story.succeeds { "SUCCESS" } else { "FAILURE" },
                tasks: story.tasks.iter().map(|task| format!("{task} finished")).collect(),
            })
        });
        let runs = self.port.runs().into_iter().map(|(id, run)| {
            let lines: Vec<&str> = run.logs.iter().filter_map(Value::as_str).collect();
            (id, (run.status, lines.join("\n")))
        });
        // `POST /v1/actions/runs/r_1/logs HTTP/1.1`
        let run_of = |line: String| line.split(['/', ' ']).find(|part| part.starts_with("r_")).map(str::to_owned);
        let doubted: HashSet<String> = self.fronts["port"].refused().into_iter().filter_map(run_of).collect();
        judge::runs(&expected.collect::<Vec<_>>(), &runs.collect(), &doubted, findings)
    }

    /// What became of how many requests, at all of them.
    pub(super) fn whims(&self) -> BTreeMap<Whim, u64> {
        let mut sum = BTreeMap::new();
        for (whim, times) in self.fronts.values().flat_map(Front::done) {
            *sum.entry(whim).or_default() += times;
        }
        sum
    }
}

/// What a run at Port asks for is linked to it, sooner or later.
const ASKED: &str = ".execution.key | endswith(\"p\")";
/// Not all, for the fakes are slow.
const NUMBERED: &str = ".execution.key | endswith(\"0\") or endswith(\"5\")";
const ENDED: &str = "(.execution.key | endswith(\"0\") or endswith(\"5\")) and \
                     (.execution.status == \"succeeded\" or .execution.status == \"failed\")";

/// As [`NUMBERED`] has it.
fn is_numbered(key: &str) -> bool {
    key.ends_with(['0', '5'])
}

/// 200, and yet not ok: of what a run is told.
fn port_refuses(asked: &Asked, _: &mut Rng) -> Option<(u16, String)> {
    let is_report = !asked.head().starts_with("GET") && asked.head().contains("/runs/");
    is_report.then(|| (200, json!({"ok": false, "error": "internal", "message": "later, perhaps"}).to_string()))
}

/// 201, and nothing was stored.
fn astrom_refuses(asked: &Asked, rng: &mut Rng) -> Option<(u16, String)> {
    let result = match rng.bool() {
        true => json!({"reportCount": 0, "eventIngestResults": []}),
        false => {
            json!({"reportCount": 1, "eventIngestResults": [{"correlationId": "c", "status": "INVALID_METADATA"}]})
        }
    };
    asked.head().starts_with("POST").then(|| (201, result.to_string()))
}

/// 200 with an error; or the answer to another question.
fn zabbix_refuses(asked: &Asked, rng: &mut Rng) -> Option<(u16, String)> {
    let request = asked.json();
    let id = request["id"].as_i64()?;
    let error = json!({"code": -32500, "message": "Application error.", "data": "Cannot connect to the database."});
    let pushed = json!({"response": "success", "data": [{"itemid": "10600"}]});
    let answer = match rng.bool() {
        true => json!({"jsonrpc": "2.0", "error": error, "id": id}),
        false => json!({"jsonrpc": "2.0", "result": pushed, "id": id + 1}),
    };
    Some((200, answer.to_string()))
}
