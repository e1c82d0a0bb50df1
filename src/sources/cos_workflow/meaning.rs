//! What a body says happened, in our words.
//!
//! A `WorkflowExecution` is an execution with its tasks. A `JobsDetail` of a workflow is news of one task of that
//! execution; one of no workflow is an execution of its own, with itself as its only task. The element decides which;
//! `EventName`, which the oldest generation lacks, only tells a start from an end. A word that we do not know is never
//! success.

use serde_json::{Map, Value, json};

use super::super::ParseError;
use super::draft::quote;
use super::time;
use super::wire::{Body, Detail, Input, Job, Made, Output, Run, Text};
use crate::model::{ExecutionPart, Status, Task, Template, Time, Update};

/// Runs that one job belongs to. Each takes over all that is said of the job.
const RUNS_OF_A_JOB_MAX: usize = 16;

/// Bytes of an id: it is compared, indexed and told. Tencent's have some dozens.
const ID_BYTES_MAX: usize = 1024;

/// What the changes of one execution may come to, of which each holds all that is known by then.
const CHANGES_BYTES_MAX: usize = 64 << 20;

/// That a body of so many bytes does not cost out of proportion.
pub(super) fn bounded(updates: Vec<Update>, bytes: usize) -> Result<Vec<Update>, ParseError> {
    let ids = updates.iter().flat_map(|u| u.tasks.iter().map(|task| &task.key).chain([&u.key]));
    if let Some(long) = ids.map(String::len).find(|len| *len > ID_BYTES_MAX) {
        return Err(ParseError(format!("an id of {long} bytes, where {ID_BYTES_MAX} are allowed")));
    }
    let [_, _, ..] = updates[..] else { return Ok(updates) };
    let mut keys: Vec<&str> = updates.iter().map(|u| u.key.as_str()).collect();
    keys.sort_unstable();
    let most = keys.chunk_by(|one, next| one == next).map(<[_]>::len).max().unwrap_or_default();
    if most > 1 && most.saturating_mul(bytes) > CHANGES_BYTES_MAX {
        return Err(ParseError(format!("speaks {most} times of one execution, which is too often for {bytes} bytes")));
    }
    Ok(updates)
}

/// Everything the body says, in its order.
pub(super) fn updates(body: Body<'_>) -> Result<Vec<Update>, ParseError> {
    let starts = match body.event_name.as_deref() {
        None | Some("WorkflowFinish" | "TaskFinish") => false,
        // A start speaks of an execution. Whatever else it might hold must not be taken for an end.
        Some("WorkflowStart") if body.details.is_empty() => true,
        Some("WorkflowStart") => return Err(ParseError("WorkflowStart with a JobsDetail".to_owned())),
        Some(other) => return Err(ParseError(format!("the EventName {} is not known", quote(other)))),
    };
    if body.runs.is_empty() && body.details.is_empty() {
        let found = body.stranger.map_or_else(String::new, |name| format!(", but {name}"));
        return Err(ParseError(format!("holds neither WorkflowExecution nor JobsDetail{found}")));
    }
    let mut updates = Vec::with_capacity(body.runs.len() + body.details.len());
    for run in body.runs {
        updates.push(of_run(run, starts)?);
    }
    for detail in body.details {
        of_detail(detail, &mut updates)?;
    }
    Ok(updates)
}

fn of_run(run: Run<'_>, starts: bool) -> Result<Update, ParseError> {
    let key = run.run_id.ok_or_else(|| ParseError("WorkflowExecution without RunId".to_owned()))?.into_owned();
    let mut tasks = Vec::with_capacity(run.tasks.len());
    for job in run.tasks {
        // The origin of a workflow's graph is listed like a task by some replies. An empty element is none.
        if job.kind.as_deref() != Some("Start") && job != Job::default() {
            tasks.push(of_task(job)?);
        }
    }
    let tasks = Task::each_once(tasks);
    let status = match (run.state.as_deref(), starts) {
        (Some(word), false) => status(word),
        (Some(word), true) if !status(word).is_finished() => status(word),
        (_, true) => Status::Running,
        (None, false) => Status::Unknown,
    };
    let identity = status.is_finished().then(|| ["WorkflowFinish/", run.state.as_deref().unwrap_or("")].concat());
    let finished_at = status.is_finished().then(|| tasks.iter().filter_map(|t| t.finished_at).max()).flatten();
    let created_at = instant(&run.created);
    let (subject, mut attributes) = of_input(run.input);
    if let Some(text) = own(run.created) {
        attributes.insert("create_time".to_owned(), text.into());
    }
    let execution = ExecutionPart {
        name: own(run.workflow_name.or(run.name)),
        workflow: own(run.workflow_id),
        subject,
        status: Some(status),
        vendor_status: own(run.state),
        created_at,
        started_at: tasks.iter().filter_map(|t| t.started_at).min(),
        finished_at,
        inputs: None,
        attributes,
    };
    Ok(Update { key, identity, execution, tasks, known_only: false })
}

fn of_detail(detail: Detail<'_>, updates: &mut Vec<Update>) -> Result<(), ParseError> {
    let Detail { mut job, progress, queue_id, user_data, input, output, files, mut workflows } = detail;
    let (subject, mut attributes) = of_input(input);
    workflows.retain(|w| w.run_id.is_some());
    if workflows.len() > RUNS_OF_A_JOB_MAX {
        return Err(ParseError(format!("a job of more than {RUNS_OF_A_JOB_MAX} workflow runs")));
    }
    job.name = workflows.iter_mut().find_map(|w| w.node_name.take());
    // Content moderation calls back with a `JobsDetail` too. It says what it found in words of its own, under no `Tag`.
    if workflows.is_empty() && job.kind.is_none() {
        return Err(ParseError("JobsDetail without Tag and without Workflow/RunId".to_owned()));
    }
    let create_time = job.created.clone();
    let mut task = of_task(job)?;
    task.outputs = match task.status {
        Status::Succeeded => outputs(files).or_else(|| outputs(vec![output])),
        status if status.is_finished() => outputs(files),
        _ => progress.as_deref().and_then(percent).map(|progress| json!({ "progress": progress })),
    };
    if workflows.is_empty() {
        for (key, text) in [("queue", queue_id), ("user_data", user_data), ("create_time", create_time)] {
            if let Some(text) = own(text) {
                attributes.insert(key.to_owned(), text.into());
            }
        }
        let execution = ExecutionPart {
            name: task.kind.clone(),
            workflow: None,
            subject,
            status: Some(task.status),
            vendor_status: task.vendor_status.clone(),
            created_at: task.created_at,
            started_at: task.started_at,
            finished_at: task.finished_at,
            inputs: None,
            attributes,
        };
        let (key, identity) = (task.key.clone(), ended(&task));
        updates.push(Update { key, identity, execution, tasks: vec![task], known_only: false });
        return Ok(());
    }
    for workflow in workflows {
        let execution = ExecutionPart {
            name: own(workflow.workflow_name),
            workflow: own(workflow.workflow_id),
            subject: subject.clone(),
            attributes: attributes.clone(),
            ..ExecutionPart::default()
        };
        let key = own(workflow.run_id).unwrap_or_default();
        updates.push(Update { key, identity: ended(&task), execution, tasks: vec![task.clone()], known_only: false });
    }
    Ok(())
}

/// What makes two job callbacks the same. A retried one need not be the same bytes.
fn ended(task: &Task) -> Option<String> {
    let word = task.vendor_status.as_deref().unwrap_or("");
    task.status.is_finished().then(|| ["TaskFinish/", &task.key, "/", word].concat())
}

fn of_task(job: Job<'_>) -> Result<Task, ParseError> {
    let name = own(job.name);
    let key = own(job.job_id).or_else(|| name.clone());
    let key = key.ok_or_else(|| ParseError("a job with neither JobId nor Name".to_owned()))?;
    let status = job.state.as_deref().map_or(Status::Unknown, status);
    let error = if status == Status::Failed { failure(job.code, job.message, &job.objects) } else { None };
    let (objects, sprites) = (made(job.objects), made(job.sprites));
    Ok(Task {
        key,
        name,
        kind: own(job.kind),
        status,
        vendor_status: own(job.state),
        created_at: instant(&job.created),
        started_at: instant(&job.started),
        finished_at: instant(&job.ended),
        template: template(job.template).or_else(|| template(job.transcode_template)),
        outputs: if status.is_finished() { produced(objects, sprites, (None, None)) } else { None },
        error,
    })
}

pub(super) fn status(word: &str) -> Status {
    match word {
        "Success" => Status::Succeeded,
        "Failed" => Status::Failed,
        "Cancel" => Status::Cancelled,
        "Pause" => Status::Paused,
        "Submitted" => Status::Pending,
        "Running" => Status::Running,
        _ => Status::Unknown,
    }
}

/// What an execution is about, and the attributes that every one has.
fn of_input(input: Input<'_>) -> (Option<String>, Map<String, Value>) {
    let (bucket, object) = (input.bucket.as_deref(), input.object.as_deref());
    let subject = object.map(|object| match bucket {
        Some(bucket) => [bucket, "/", object].concat(),
        None => object.to_owned(),
    });
    let headers: Map<String, Value> =
        input.headers.into_iter().filter_map(|(name, value)| Some((own(name)?, value_of(value)))).collect();
    // Made of a list at once: one after the other, each looks for its place.
    let attributes = Map::from_iter([
        ("bucket".to_owned(), value_of(input.bucket)),
        ("headers".to_owned(), if headers.is_empty() { Value::Null } else { Value::Object(headers) }),
        ("object".to_owned(), value_of(input.object)),
        ("region".to_owned(), value_of(input.region)),
    ]);
    (subject, attributes)
}

/// Why it failed: the job's own words, else those of the first object that failed.
fn failure<'a>(code: Text<'a>, message: Text<'a>, objects: &[Made<'a>]) -> Option<Value> {
    let failed = |code: &Text<'_>| code.as_deref().is_some_and(|code| code != "Success");
    if failed(&code) {
        return pair("code", "message", (code, message));
    }
    match objects.iter().find(|o| failed(&o.code)) {
        Some(object) => pair("code", "message", (object.code.clone(), object.message.clone())),
        None => pair("code", "message", (None, message)),
    }
}

/// What was made, or was asked for.
fn outputs(files: Vec<Output<'_>>) -> Option<Value> {
    let (mut objects, mut sprites, mut place) = (Vec::new(), Vec::new(), (None, None));
    for file in files {
        objects.extend(named(file.objects));
        sprites.extend(named(file.sprites));
        place = (place.0.or(file.bucket), place.1.or(file.region));
    }
    produced(objects, sprites, place)
}

fn produced(objects: Vec<Value>, sprites: Vec<Value>, place: (Text<'_>, Text<'_>)) -> Option<Value> {
    if objects.is_empty() && sprites.is_empty() {
        return None;
    }
    let mut outputs = Map::new();
    outputs.insert("objects".to_owned(), objects.into());
    if !sprites.is_empty() {
        outputs.insert("sprites".to_owned(), sprites.into());
    }
    for (key, text) in [("bucket", place.0), ("region", place.1)] {
        if let Some(text) = own(text) {
            outputs.insert(key.to_owned(), text.into());
        }
    }
    Some(outputs.into())
}

fn made(list: Vec<Made<'_>>) -> Vec<Value> {
    list.into_iter().filter_map(|o| pair("name", "url", (o.name, o.url))).collect()
}

fn named(list: Vec<Text<'_>>) -> Vec<Value> {
    list.into_iter().filter_map(|name| pair("name", "url", (name, None))).collect()
}

fn template((id, name): (Text<'_>, Text<'_>)) -> Option<Template> {
    (id.is_some() || name.is_some()).then(|| Template { id: own(id), name: own(name) })
}

/// Both, or nothing when neither is there.
fn pair(first: &str, second: &str, texts: (Text<'_>, Text<'_>)) -> Option<Value> {
    if texts.0.is_none() && texts.1.is_none() {
        return None;
    }
    let mut map = Map::new();
    map.insert(first.to_owned(), value_of(texts.0));
    map.insert(second.to_owned(), value_of(texts.1));
    Some(map.into())
}

/// `37`, `37%` and `37.5` are 37 percent.
fn percent(text: &str) -> Option<i64> {
    let number: f64 = text.trim_end_matches('%').trim_end().parse().ok()?;
    (0.0..=100.0).contains(&number).then_some(number as i64)
}

fn instant(text: &Text<'_>) -> Option<Time> {
    text.as_deref().and_then(time::parse)
}

fn own(text: Text<'_>) -> Option<String> {
    text.map(std::borrow::Cow::into_owned)
}

fn value_of(text: Text<'_>) -> Value {
    own(text).map_or(Value::Null, Value::String)
}
