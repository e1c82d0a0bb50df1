//! Asking CI what is true of an execution: the pages "Get Workflow Instance Details" and "Querying a Job".
//!
//! The reply holds the elements of a callback, under some other names, so that it is read by the same table and comes to
//! mean the same. It leaves out the bucket, which is known, since it was asked; and its older generation writes a whole
//! URL for the object.
//!
//! Which bucket is asked is the configuration's to say. What a callback says of itself only chooses among those: a
//! forged one must not lead to a bucket of its sender's, whose owner could let this account in.

use std::borrow::Cow;

use http::Method;

use super::super::{Answer, Asked, Inquire};
use super::{draft, meaning, xml};
use crate::Boxed;
use crate::model::Time;
use crate::tencent::{self, Call, Ci, Element, Fault, Seen};

/// Whom to ask, and about which buckets.
pub(super) struct Asking {
    pub(super) ci: Ci,
    /// At least one.
    pub(super) buckets: Vec<String>,
    pub(super) limits: draft::Limits,
}

/// As much as a callback may have by default: it says the same.
pub(super) const ANSWER_BYTES_MAX: usize = 4 << 20;
const KEY_BYTES_MAX: usize = 128;

impl Inquire for Asking {
    fn ask<'a>(&'a self, asked: &'a Asked, now: Time) -> Boxed<'a, Answer> {
        Box::pin(async move {
            let Some(bucket) = self.bucket(asked) else {
                let reason = "it names none of the buckets that this source may ask about; add it to bucket".to_owned();
                return Answer::Unanswerable { reason };
            };
            // No id of CI's looks otherwise; and what is no name must not become a path.
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_=".contains(&b);
            if asked.key.is_empty() || asked.key.len() > KEY_BYTES_MAX || !asked.key.bytes().all(is_plain) {
                return Answer::Unknown;
            }
            let path = format!("{}/{}", collection(asked), asked.key);
            let call = Call { bucket, method: Method::GET, path, query: Vec::new() };
            match self.ci.call(&call, now, &mut Seen::default()).await {
                Ok(reply) => self.understood(&reply, bucket, asked),
                // An id that CI finds wrong is none of its executions'.
                Err(Fault::Missing { .. } | Fault::Refused { in_its_words: true, .. }) => Answer::Unknown,
                Err(Fault::Halt { reason }) => Answer::Halt { reason },
                Err(Fault::Retry { after_ms, reason, .. }) => Answer::Later { after_ms, reason },
                // Somebody on the way, who knows nothing of it.
                Err(Fault::Refused { reason, .. }) => Answer::Later { after_ms: None, reason },
            }
        })
    }
}

/// Where CI keeps what is asked about. Of a job of no workflow the first letter of its id tells.
fn collection(asked: &Asked) -> &'static str {
    match (&asked.workflow, asked.key.as_bytes()) {
        (None, [b'j', ..]) => "/jobs",
        (None, [b'a', rest @ ..]) if rest.len() == 32 => "/ai_jobs",
        (None, [b'c', rest @ ..]) if rest.len() == 32 => "/pic_jobs",
        _ => "/workflowexecution",
    }
}

impl Asking {
    fn bucket(&self, asked: &Asked) -> Option<&str> {
        let named = asked.attributes.get("bucket").and_then(|bucket| bucket.as_str());
        let known = self.buckets.iter().find(|bucket| Some(bucket.as_str()) == named);
        match (known, &self.buckets[..]) {
            (Some(bucket), _) => Some(bucket),
            // The only one: there it is, or nowhere.
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    fn understood(&self, reply: &str, bucket: &str, asked: &Asked) -> Answer {
        let strange = |what: &str| Answer::Later { after_ms: None, reason: format!("the answer is not CI's: {what}") };
        let mut body = match xml::read(reply, self.limits) {
            Ok(body) => body,
            Err(e) => return strange(&e.0),
        };
        // An element without an id says that there is nothing.
        body.runs.retain(|run| run.run_id.is_some());
        body.details.retain(|detail| detail.job.job_id.is_some());
        if body.runs.is_empty() && body.details.is_empty() {
            let is_reply = Element::read(reply).is_ok_and(|root| root.all("Response").next().is_some());
            return if is_reply { Answer::Unknown } else { strange("it holds no Response") };
        }
        let inputs = body.runs.iter_mut().map(|run| &mut run.input);
        for input in inputs.chain(body.details.iter_mut().map(|detail| &mut detail.input)) {
            input.bucket.get_or_insert(Cow::Borrowed(bucket));
            input.object = input.object.take().map(|object| tencent::key_of(object, bucket));
        }
        match meaning::updates(body) {
            Ok(updates) => match updates.into_iter().find(|update| update.key == asked.key) {
                Some(update) => Answer::Known(Box::new(update)),
                None => strange("it speaks of another execution"),
            },
            Err(e) => strange(&e.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use serde_json::{Map, json};

    use super::*;
    use crate::model::{Status, Update};
    use crate::options::{BuildContext, Faults, Section};
    use crate::outbound::Settings;
    use crate::secret::{Resolver, Secret, SecretSpec};
    use crate::tencent::Access;

    const BUCKET: &str = "media-1250000000";
    const RUN: &str = "i166ee19017b011eda8a5525400c00009";

    fn asking(buckets: &[&str]) -> Asking {
        let plain = |text| SecretSpec::Plain(Secret::new(text));
        let (secret_id, secret_key) = (plain("id"), plain("key"));
        let region = Some("ap-chongqing".to_owned());
        let access = Access {
            secret_id,
            secret_key,
            security_token: None,
            region,
            url: None,
            ca_file: None,
            answer_bytes_max: ANSWER_BYTES_MAX,
        };
        let table = ::config::Value::from(std::collections::HashMap::<String, ::config::Value>::new());
        let section = Section { key: "sources.media".to_owned(), table };
        let secrets = Resolver { env: &|_| None, warnings: RefCell::default() };
        let outbound = Settings::default();
        let context =
            BuildContext { name: "media", instance: "test", secrets: &secrets, sources: &[], outbound: &outbound };
        let ci = access.build(&context, &mut Faults::of(&section)).expect("built");
        let buckets = buckets.iter().map(|name| (*name).to_owned()).collect();
        Asking { ci, buckets, limits: draft::Limits { elements_max: 1000, depth_max: 16 } }
    }

    fn asked(key: &str, workflow: Option<&str>, bucket: Option<&str>) -> Asked {
        let attributes = Map::from_iter([("bucket".to_owned(), json!(bucket))]);
        Asked { key: key.to_owned(), workflow: workflow.map(str::to_owned), attributes }
    }

    fn known(reply: &str) -> Update {
        let asked = asked(RUN, Some("w1"), None);
        match asking(&[BUCKET]).understood(reply, BUCKET, &asked) {
            Answer::Known(update) => *update,
            other => panic!("{other:?}"),
        }
    }

    fn reply(inside: &str) -> String {
        format!("<Response><RequestId>r</RequestId><WorkflowExecution>{inside}</WorkflowExecution></Response>")
    }

    #[test]
    fn a_reply_says_what_a_callback_would_have_said() {
        let update = known(&reply(&format!(
            "<WorkflowId>w1</WorkflowId><Name>workflow-1</Name><RunId>{RUN}</RunId>\
             <CreateTime>2022-08-09T14:54:17+08:00</CreateTime><Object>in/game.mp4</Object><State>Failed</State>\
             <Topology><Dependencies><Start>Transcode_15</Start><Transcode_15>End</Transcode_15></Dependencies>\
             <Nodes><Start><Type>Start</Type></Start><Transcode_15><Type>Transcode</Type></Transcode_15></Nodes></Topology>\
             <Tasks><Type>Start</Type><Name>Start</Name></Tasks>\
             <Tasks><Type>Transcode</Type><JobId>j1</JobId><CreateTime>2022-08-09T14:54:18+08:00</CreateTime>\
             <Name>Transcode_15</Name><State>Failed</State><StartTime>2022-08-09T14:54:18+08:00</StartTime>\
             <EndTime>2022-08-09T14:54:39+08:00</EndTime><Code>ExampleErrorCode</Code><Message>example</Message></Tasks>"
        )));
        assert_eq!((update.key.as_str(), update.identity.as_deref()), (RUN, Some("WorkflowFinish/Failed")));
        let e = &update.execution;
        assert_eq!((e.name.as_deref(), e.workflow.as_deref()), (Some("workflow-1"), Some("w1")));
        assert_eq!((e.status, e.subject.as_deref()), (Some(Status::Failed), Some("media-1250000000/in/game.mp4")));
        assert_eq!(e.created_at.map(|t| t.to_string()).as_deref(), Some("2022-08-09T06:54:17Z"));
        assert_eq!(e.finished_at.map(|t| t.to_string()).as_deref(), Some("2022-08-09T06:54:39Z"));
        assert_eq!((&e.attributes["bucket"], &e.attributes["object"]), (&json!(BUCKET), &json!("in/game.mp4")));
        let [task] = &update.tasks[..] else { panic!("{:?}", update.tasks) };
        assert_eq!((task.key.as_str(), task.name.as_deref()), ("j1", Some("Transcode_15")));
        assert_eq!(task.error, Some(json!({"code": "ExampleErrorCode", "message": "example"})));
    }

    #[test]
    fn a_job_of_no_workflow_is_known_by_itself() {
        let reply = "<Response><JobsDetail><Code>Success</Code><JobId>j1</JobId><State>Success</State>\
                     <Tag>Snapshot</Tag><QueueId>p1</QueueId><Input><Object>a.mp4</Object></Input></JobsDetail></Response>";
        let Answer::Known(update) = asking(&[BUCKET]).understood(reply, BUCKET, &asked("j1", None, None)) else {
            panic!("{reply}");
        };
        assert_eq!((update.key.as_str(), update.identity.as_deref()), ("j1", Some("TaskFinish/j1/Success")));
        assert_eq!(update.execution.subject.as_deref(), Some("media-1250000000/a.mp4"));
        assert_eq!((update.execution.status, update.tasks.len()), (Some(Status::Succeeded), 1));
    }

    #[test]
    fn an_older_reply_names_the_object_by_its_url() {
        for (object, key) in [
            ("https://media-1250000000.cos.ap-beijing.myqcloud.com/a/b%20c.mp4", "a/b c.mp4"),
            ("http://media-1250000000.cos.ap-beijing.myqcloud.com/%E6%B8%B8.mp4", "游.mp4"),
            (
                "https://media-1250000000.cos.ap-beijing.myqcloud.com/",
                "https://media-1250000000.cos.ap-beijing.myqcloud.com/",
            ),
            ("https://elsewhere.example/a.mp4", "https://elsewhere.example/a.mp4"),
            ("a%20b.mp4", "a%20b.mp4"),
        ] {
            let update = known(&reply(&format!("<RunId>{RUN}</RunId><Object>{object}</Object><State>Running</State>")));
            assert_eq!(update.execution.attributes["object"], json!(key), "{object}");
            assert_eq!((update.execution.status, update.identity), (Some(Status::Running), None));
        }
    }

    #[test]
    fn a_reply_without_the_execution_is_no_execution_and_a_page_is_no_reply() {
        let (asking, asked) = (asking(&[BUCKET]), asked(RUN, Some("w1"), None));
        let empty = reply("");
        for unknown in [
            "<Response><RequestId>r</RequestId></Response>",
            "<Response/>",
            &empty,
            "<Response><JobsDetail></JobsDetail><NonExistJobIds>j1</NonExistJobIds></Response>",
        ] {
            let answer = asking.understood(unknown, BUCKET, &asked);
            assert_eq!(answer, Answer::Unknown, "{unknown}");
        }
        for strange in
            ["", "ok", "<html><body>login</body></html>", "{\"WorkflowExecution\":{}}", &reply("<RunId>other</RunId>")]
        {
            let answer = asking.understood(strange, BUCKET, &asked);
            assert!(matches!(answer, Answer::Later { .. }), "{strange}: {answer:?}");
        }
    }

    #[test]
    fn what_is_asked_follows_the_configuration_and_the_id() {
        let (one, two) = (asking(&[BUCKET]), asking(&[BUCKET, "second-1250000000"]));
        assert_eq!(one.bucket(&asked(RUN, None, Some("evil-1"))), Some(BUCKET));
        assert_eq!(two.bucket(&asked(RUN, None, Some("second-1250000000"))), Some("second-1250000000"));
        assert_eq!(two.bucket(&asked(RUN, None, Some("evil-1"))), None);
        assert_eq!(two.bucket(&asked(RUN, None, None)), None);
        let hex = "9679e59e400411eebd82718e65e00002";
        for (key, workflow, path) in [
            (RUN, Some("w1"), "/workflowexecution"),
            (RUN, None, "/workflowexecution"),
            ("j1", Some("w1"), "/workflowexecution"),
            ("j1", None, "/jobs"),
            (&format!("a{hex}"), None, "/ai_jobs"),
            (&format!("c{hex}"), None, "/pic_jobs"),
            // An execution of the old kind has no letter of its own.
            ("a7145b2919714156bd97f91dc03fa2b4", None, "/workflowexecution"),
        ] {
            assert_eq!(collection(&asked(key, workflow, None)), path, "{key}");
        }
    }
}
