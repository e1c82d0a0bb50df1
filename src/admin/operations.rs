//! What can be asked of the operators' door: one table. Requests find their way by it, 405s name its methods, and
//! `/openapi.json` describes it.

use http::Method;

/// What an operation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Does {
    /// Says that the daemon lives; asks for no credential, like the next.
    Lives,
    IsReady,
    Measure,
    Describe,
    Status,
    List(Noun),
    Show(Noun),
    ReceiptBody,
    ReceiptReplay,
    Sinks,
    Sink(SinkVerb),
    Deliveries(DeliveryVerb),
    Delivery(DeliveryVerb),
    Stream,
}

/// What is listed and shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Noun {
    Execution,
    Receipt,
    Delivery,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SinkVerb {
    Pause,
    Resume,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DeliveryVerb {
    Retry,
    Discard,
}

/// One row of the table. In a path, `{…}` stands for any one segment; of two paths that fit, the first one is meant.
pub(super) struct Operation {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) does: Does,
}

const fn get(path: &'static str, does: Does) -> Operation {
    Operation { method: Method::GET, path, does }
}

const fn post(path: &'static str, does: Does) -> Operation {
    Operation { method: Method::POST, path, does }
}

/// All of it. What is read answers HEAD, too.
pub(super) static OPERATIONS: &[Operation] = &[
    get("/livez", Does::Lives),
    get("/readyz", Does::IsReady),
    get("/metrics", Does::Measure),
    get("/openapi.json", Does::Describe),
    get("/api/v1/status", Does::Status),
    get("/api/v1/executions", Does::List(Noun::Execution)),
    get("/api/v1/executions/{id}", Does::Show(Noun::Execution)),
    get("/api/v1/receipts", Does::List(Noun::Receipt)),
    get("/api/v1/receipts/{id}", Does::Show(Noun::Receipt)),
    get("/api/v1/receipts/{id}/body", Does::ReceiptBody),
    post("/api/v1/receipts/{id}/replay", Does::ReceiptReplay),
    get("/api/v1/deliveries", Does::List(Noun::Delivery)),
    post("/api/v1/deliveries/retry", Does::Deliveries(DeliveryVerb::Retry)),
    post("/api/v1/deliveries/discard", Does::Deliveries(DeliveryVerb::Discard)),
    get("/api/v1/deliveries/{id}", Does::Show(Noun::Delivery)),
    post("/api/v1/deliveries/{id}/retry", Does::Delivery(DeliveryVerb::Retry)),
    post("/api/v1/deliveries/{id}/discard", Does::Delivery(DeliveryVerb::Discard)),
    get("/api/v1/sinks", Does::Sinks),
    post("/api/v1/sinks/{name}/pause", Does::Sink(SinkVerb::Pause)),
    post("/api/v1/sinks/{name}/resume", Does::Sink(SinkVerb::Resume)),
    get("/api/v1/stream", Does::Stream),
];

/// What is at a path.
#[derive(Debug)]
pub(super) struct Found<'p> {
    template: &'static str,
    /// What stands in the place of `{…}`, as it came; empty without one.
    pub(super) named: &'p str,
}

/// What is at `path`, if anything is.
pub(super) fn find(path: &str) -> Option<Found<'_>> {
    let fits = |operation: &Operation| Some(Found { template: operation.path, named: named(operation.path, path)? });
    OPERATIONS.iter().find_map(fits)
}

impl Found<'_> {
    fn operations(&self) -> impl Iterator<Item = &'static Operation> {
        OPERATIONS.iter().filter(|operation| operation.path == self.template)
    }

    /// The methods it takes. No path both reads and changes.
    pub(super) fn methods(&self) -> &'static [Method] {
        let reads = self.operations().any(|operation| operation.method == Method::GET);
        if reads { &[Method::GET, Method::HEAD] } else { &[Method::POST] }
    }

    /// Whether it is told to anybody who asks.
    pub(super) fn is_open(&self) -> bool {
        self.operations().any(|operation| matches!(operation.does, Does::Lives | Does::IsReady))
    }

    /// What it does when asked by `method`.
    pub(super) fn does(&self, method: &Method) -> Option<Does> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.operations().find(|operation| operation.method == method).map(|operation| operation.does)
    }
}

/// What `path` has where `template` has `{…}`, if the rest is the same.
fn named<'p>(template: &str, path: &'p str) -> Option<&'p str> {
    let Some((before, rest)) = template.split_once('{') else { return (template == path).then_some("") };
    let (_, after) = rest.split_once('}')?;
    let named = path.strip_prefix(before)?.strip_suffix(after)?;
    (!named.is_empty() && !named.contains('/')).then_some(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_what_the_contract_says() {
        use Noun::{Delivery, Execution, Receipt};
        let (get, post) = (Method::GET, Method::POST);
        for (method, path, expected) in [
            (&get, "/api/v1/executions", Some((Does::List(Execution), ""))),
            (&get, "/api/v1/executions/i123", Some((Does::Show(Execution), "i123"))),
            (&get, "/api/v1/executions/retry", Some((Does::Show(Execution), "retry"))),
            (&get, "/api/v1/executions/i123/tasks", None),
            (&get, "/api/v1/executions/", None),
            (&get, "/api/v1/receipts", Some((Does::List(Receipt), ""))),
            (&get, "/api/v1/receipts/7", Some((Does::Show(Receipt), "7"))),
            (&get, "/api/v1/receipts/7/body", Some((Does::ReceiptBody, "7"))),
            (&get, "/api/v1/deliveries", Some((Does::List(Delivery), ""))),
            (&get, "/api/v1/deliveries/7", Some((Does::Show(Delivery), "7"))),
            (&get, "/api/v1/deliveries/retry", None),
            (&get, "/api/v1/status", Some((Does::Status, ""))),
            (&get, "/api/v1/sinks", Some((Does::Sinks, ""))),
            (&get, "/api/v1/sinks/portal", None),
            (&post, "/api/v1/sinks/portal/pause", Some((Does::Sink(SinkVerb::Pause), "portal"))),
            (&post, "/api/v1/sinks/portal/resume", Some((Does::Sink(SinkVerb::Resume), "portal"))),
            (&post, "/api/v1/deliveries/retry", Some((Does::Deliveries(DeliveryVerb::Retry), ""))),
            (&post, "/api/v1/deliveries/discard", Some((Does::Deliveries(DeliveryVerb::Discard), ""))),
            (&post, "/api/v1/deliveries/7/retry", Some((Does::Delivery(DeliveryVerb::Retry), "7"))),
            (&post, "/api/v1/deliveries/7/discard", Some((Does::Delivery(DeliveryVerb::Discard), "7"))),
            (&post, "/api/v1/receipts/7/replay", Some((Does::ReceiptReplay, "7"))),
            (&post, "/api/v1/receipts/7/replay/x", None),
            (&post, "/api/v1/sinks/portal/pause/", None),
            (&post, "/api/v1/sinks//pause", None),
            (&get, "/api/v1/stream", Some((Does::Stream, ""))),
            (&Method::HEAD, "/livez", Some((Does::Lives, ""))),
            (&post, "/livez", None),
            (&get, "/api/v1/", None),
            (&get, "/api/v2/sinks", None),
            (&get, "/", None),
        ] {
            let found = find(path);
            let does = found.as_ref().and_then(|found| Some((found.does(method)?, found.named)));
            assert_eq!(does, expected, "{method} {path}");
            if let Some(found) = found {
                assert_eq!(found.methods().contains(method), expected.is_some(), "{method} {path}");
            }
        }
    }
}
