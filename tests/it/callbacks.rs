//! Callbacks as their senders put them on the wire: Tencent's as XML, Port's as JSON with a signature.

use std::fmt::Display;

use callbackd::{clock, signature};

/// One callback of a workflow run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// `WorkflowStart`.
    Start,
    /// `TaskFinish` of the run's only job.
    TaskFinish,
    /// `WorkflowFinish` in `Success`.
    Success,
    /// `WorkflowFinish` in `Failed`.
    Failed,
}

/// The body with which Tencent tells `step` of `run`.
pub(crate) fn cos(step: Step, run: impl Display) -> String {
    let (event, state) = match step {
        Step::Start => ("WorkflowStart", "Running"),
        Step::TaskFinish => return task_finish(run),
        Step::Success => ("WorkflowFinish", "Success"),
        Step::Failed => ("WorkflowFinish", "Failed"),
    };
    let tasks = match step {
        Step::Start => String::new(),
        _ => format!(
            "<Tasks><Type>Transcode</Type><CreateTime>2020-12-01 11:00:42+0800</CreateTime>\
             <EndTime>2020-12-01 11:00:45+0800</EndTime><State>{state}</State><JobId>j-{run}</JobId>\
             <Name>Transcode_1</Name></Tasks>"
        ),
    };
    format!(
        "<Response><EventName>{event}</EventName><WorkflowExecution><RunId>{run}</RunId>\
         <BucketId>media-1250000000</BucketId><Object>in/{run}.mp4</Object><WorkflowId>w1</WorkflowId>\
         <WorkflowName>test</WorkflowName><CreateTime>2020-12-01 11:00:41+0800</CreateTime><State>{state}</State>{tasks}\
         </WorkflowExecution></Response>"
    )
}

fn task_finish(run: impl Display) -> String {
    format!(
        "<Response><EventName>TaskFinish</EventName><JobsDetail><Code>Success</Code>\
         <CreationTime>2020-12-01T11:00:42+0800</CreationTime><EndTime>2020-12-01T11:00:45+0800</EndTime>\
         <Input><BucketId>media-1250000000</BucketId><Object>in/{run}.mp4</Object></Input><JobId>j-{run}</JobId>\
         <State>Success</State><Tag>Transcode</Tag><Workflow><Name>Transcode_1</Name><RunId>{run}</RunId>\
         <WorkflowId>w1</WorkflowId><WorkflowName>test</WorkflowName></Workflow></JobsDetail></Response>"
    )
}

/// The body with which Port asks for a run.
pub(crate) fn port(run: impl Display) -> String {
    serde_json::json!({
        "action": "transcode", "resourceType": "run", "status": "TRIGGERED",
        "context": { "blueprint": "media", "entity": null, "runId": run.to_string() },
        "payload": { "properties": { "object": "in/clip.mp4" } },
    })
    .to_string()
}

/// The headers that Port signs `body` with, `seconds` from now.
pub(crate) fn signed(secret: &str, body: &[u8], seconds: i64) -> [(&'static str, String); 2] {
    let timestamp = (clock::now().seconds() + seconds).to_string();
    let mac = signature::hmac_sha256(secret.as_bytes(), &[timestamp.as_bytes(), b".", body]);
    [("x-port-timestamp", timestamp), ("x-port-signature", format!("v1,{}", signature::base64(&mac)))]
}
