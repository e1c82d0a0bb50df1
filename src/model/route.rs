//! Which sinks are told of a change, and which executions belong together.

use std::fmt;

use serde_json::Value;

use super::{Execution, Time};

/// A small program over the `data` of a normalized change; jq, outside of tests. It ends by construction.
pub trait Program: Send + Sync {
    /// Whether `data` is meant. An error is a fault of the program on this data, said for a person.
    fn test(&self, data: &Value) -> Result<bool, String>;

    /// The text that `data` is known by; `None` for null, which never links.
    fn text(&self, data: &Value) -> Result<Option<String>, String>;

    /// The program itself, as it was written.
    fn written(&self) -> &str;
}

/// From which sources, on which condition, to which sinks.
pub struct Route {
    /// Names of sources.
    pub from: Vec<String>,
    /// Only changes for which this holds.
    pub when: Option<Box<dyn Program>>,
    /// Names of sinks.
    pub to: Vec<String>,
}

/// Ties an execution of one source to one of another when both are known by the same text.
pub struct LinkRule {
    /// The source whose executions are to find their partner (COS).
    pub of: String,
    /// What an execution of `of` is known by.
    pub key: Box<dyn Program>,
    /// The partner's source (Port).
    pub with: String,
    /// What an execution of `with` is known by.
    pub with_key: Box<dyn Program>,
}

/// What the storing transaction has to know of one sink.
#[derive(Clone, Debug)]
pub struct SinkRule {
    /// Its configured name.
    pub name: String,
    /// A waiting delivery that a newer change of the same execution overtakes is discarded as `superseded`.
    pub coalesce: bool,
}

/// By when the executions of one source are expected to be finished, counted from when they began.
#[derive(Clone, Debug, Default)]
pub struct Expectation {
    /// The source's name.
    pub source: String,
    /// All of them, in milliseconds; `None` for those of [`Expectation::of`] only.
    pub within_ms: Option<u64>,
    /// Those of a workflow, by its id or name.
    pub of: Vec<(String, u64)>,
}

/// What is judged in the storing transaction.
#[derive(Default)]
pub struct Rules {
    /// In the order of the configuration.
    pub routes: Vec<Route>,
    /// In the order of the configuration; each is stored under its [`LinkRule::name`].
    pub links: Vec<LinkRule>,
    /// Every configured sink.
    pub sinks: Vec<SinkRule>,
    /// One for each source that expects anything.
    pub expectations: Vec<Expectation>,
}

/// The sinks of one change.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// Each once, in the order of the configuration.
    pub sinks: Vec<String>,
    /// Sinks of routes whose condition failed on this change, with the fault. They get a dead letter: visible, and
    /// an operator can deliver it.
    pub faults: Vec<(String, String)>,
}

impl Rules {
    /// Whether the sinks of a change of this source depend on what it says.
    pub fn looks_inside(&self, source: &str) -> bool {
        self.routes.iter().any(|r| r.when.is_some() && r.from.iter().any(|f| f == source))
            || self.links.iter().any(|l| l.of == source || l.with == source)
    }

    /// The sinks to be told of a change of `source` that says `data`.
    pub fn targets(&self, source: &str, data: &Value) -> Targets {
        let mut targets = Targets::default();
        for (position, route) in self.routes.iter().enumerate() {
            if !route.from.iter().any(|f| f == source) {
                continue;
            }
            match route.when.as_ref().map_or(Ok(true), |when| when.test(data)) {
                Ok(true) => targets.sinks.extend(route.to.iter().cloned()),
                Ok(false) => {}
                Err(fault) => {
                    let fault = format!("routes[{position}].when: {fault}");
                    targets.faults.extend(route.to.iter().map(|sink| (sink.clone(), fault.clone())));
                }
            }
        }
        let mut seen = Vec::new();
        targets.sinks.retain(|s| {
            !seen.contains(s) && {
                seen.push(s.clone());
                true
            }
        });
        // What another route delivers anyway needs no dead letter.
        targets.faults.retain(|(s, _)| {
            !seen.contains(s) && {
                seen.push(s.clone());
                true
            }
        });
        targets
    }

    /// Whether executions of this source may be expected to be finished in time.
    pub fn expects(&self, source: &str) -> bool {
        self.expectations.iter().any(|e| e.source == source)
    }

    /// By when this execution, first heard of `now`, is expected to be finished.
    pub fn expected_by(&self, execution: &Execution, now: Time) -> Option<Time> {
        let expectation = self.expectations.iter().find(|e| e.source == execution.source)?;
        if execution.status.is_finished() {
            return None;
        }
        let of = |word: &Option<String>| {
            let word = word.as_deref()?;
            expectation.of.iter().find(|(workflow, _)| workflow == word).map(|(_, ms)| *ms)
        };
        let within_ms = of(&execution.workflow).or_else(|| of(&execution.name)).or(expectation.within_ms)?;
        // A vendor whose clock is ahead is not to put it off.
        let began = execution.started_at.or(execution.created_at).map_or(now, |began| began.min(now));
        Some(began.plus_ms(within_ms))
    }

    /// Whether this sink coalesces.
    pub fn coalesces(&self, sink: &str) -> bool {
        self.sinks.iter().any(|s| s.name == sink && s.coalesce)
    }
}

impl LinkRule {
    /// The name it is stored under: by what it says, so that rules may be added, taken away and moved while executions
    /// wait for their partners.
    pub fn name(&self) -> String {
        let parts = [&self.of, self.key.written(), &self.with, self.with_key.written()];
        let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
        // FNV-1a, which is fixed for ever.
        let hash = bytes.fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        format!("{}->{}#{hash:08x}", self.of, self.with)
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rules({} routes, {} links, {} sinks)", self.routes.len(), self.links.len(), self.sinks.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Status(&'static str);

    impl Program for Status {
        fn test(&self, data: &Value) -> Result<bool, String> {
            data["execution"]["status"].as_str().map(|s| s == self.0).ok_or_else(|| "no status".to_owned())
        }

        fn text(&self, _: &Value) -> Result<Option<String>, String> {
            Ok(None)
        }

        fn written(&self) -> &str {
            self.0
        }
    }

    fn route(from: &[&str], when: Option<&'static str>, to: &[&str]) -> Route {
        let own = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        Route { from: own(from), when: when.map(|w| Box::new(Status(w)) as Box<dyn Program>), to: own(to) }
    }

    #[test]
    fn a_link_rule_is_known_by_what_it_says() {
        let rule = |of: &str, key: &'static str| LinkRule {
            of: of.to_owned(),
            key: Box::new(Status(key)),
            with: "portal".to_owned(),
            with_key: Box::new(Status("b")),
        };
        assert_eq!(rule("media", "a").name(), rule("media", "a").name());
        assert!(rule("media", "a").name().starts_with("media->portal#"));
        assert_ne!(rule("media", "a").name(), rule("media", "c").name());
        assert_ne!(rule("me", "diaa").name(), rule("media", "a").name());
    }

    #[test]
    fn each_sink_is_told_once_and_a_fault_is_never_silent() {
        let rules = Rules {
            routes: vec![
                route(&["media"], None, &["a"]),
                route(&["media", "portal"], Some("failed"), &["b", "a"]),
                route(&["portal"], None, &["c"]),
            ],
            ..Rules::default()
        };
        let failed = serde_json::json!({"execution": {"status": "failed"}});
        assert_eq!(rules.targets("media", &failed).sinks, ["a", "b"]);
        let ok = serde_json::json!({"execution": {"status": "succeeded"}});
        assert_eq!(rules.targets("media", &ok).sinks, ["a"]);
        assert_eq!(rules.targets("portal", &ok).sinks, ["c"]);
        assert_eq!(rules.targets("other", &ok), Targets::default());
        let broken = rules.targets("media", &serde_json::json!({}));
        assert_eq!(broken.sinks, ["a"]);
        assert_eq!(broken.faults, [("b".to_owned(), "routes[1].when: no status".to_owned())]);
    }

    #[test]
    fn an_execution_is_expected_by_its_workflow_its_name_or_its_source() {
        let of = vec![("w1".to_owned(), 1000), ("ingest".to_owned(), 2000)];
        let expectation = Expectation { source: "media".to_owned(), within_ms: Some(9000), of };
        let rules = Rules { expectations: vec![expectation.clone()], ..Rules::default() };
        let (now, began) = (Time::from_seconds(100), Time::from_seconds(90));
        let execution = |workflow: &str, name: &str, status| {
            let part = crate::model::ExecutionPart {
                workflow: Some(workflow.to_owned()),
                name: Some(name.to_owned()),
                status: Some(status),
                created_at: Some(began),
                ..Default::default()
            };
            let update = crate::model::Update { key: "i".to_owned(), execution: part, ..Default::default() };
            crate::model::State::begin("media", update).state.execution
        };
        let running = crate::model::Status::Running;
        for (workflow, name, within_ms) in [("w1", "ingest", 1000), ("w2", "ingest", 2000), ("w2", "x", 9000)] {
            let by = rules.expected_by(&execution(workflow, name, running), now);
            assert_eq!(by, Some(began.plus_ms(within_ms)), "{workflow} {name}");
        }
        assert_eq!(rules.expected_by(&execution("w1", "x", crate::model::Status::Failed), now), None);
        let mut odd = execution("w1", "x", running);
        odd.created_at = Some(now.plus_ms(86_400_000));
        assert_eq!(rules.expected_by(&odd, now), Some(now.plus_ms(1000)), "a clock that is ahead puts nothing off");
        let only = Rules { expectations: vec![Expectation { within_ms: None, ..expectation }], ..Rules::default() };
        assert_eq!(only.expected_by(&execution("w2", "x", running), now), None);
        odd.source = "portal".to_owned();
        assert!(rules.expects("media") && !rules.expects("portal") && rules.expected_by(&odd, now).is_none());
    }
}
