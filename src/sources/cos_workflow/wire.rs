//! What is kept of a callback's body, and where in the body it stands.
//!
//! An element is known by its full path, never by its name alone: `Operation/DigitalWatermark/State` says nothing of
//! the job, and a header may be named `EventName`. What is not in the table at the end is skipped. The names are those
//! of the pages "Workflow Callback" and of each job's "Callback" in Tencent Cloud's CI documentation, and of the
//! callback structs of its Go SDK, over all their generations.

use std::borrow::Cow;

/// The text of an element; `None` when there is no such element, or nothing in it.
pub(super) type Text<'a> = Option<Cow<'a, str>>;

/// One body.
#[derive(Default)]
pub(super) struct Body<'a> {
    pub(super) event_name: Text<'a>,
    pub(super) runs: Vec<Run<'a>>,
    pub(super) details: Vec<Detail<'a>>,
    /// The first outer element that is none of these: for the reason of a quarantine.
    pub(super) stranger: Option<String>,
    /// How many runs, details, tasks and workflows it has.
    pub(super) parts: usize,
}

/// `WorkflowExecution`.
#[derive(Default)]
pub(super) struct Run<'a> {
    pub(super) run_id: Text<'a>,
    pub(super) workflow_id: Text<'a>,
    pub(super) workflow_name: Text<'a>,
    /// `Name`: what `WorkflowName` is called in the reply to a question.
    pub(super) name: Text<'a>,
    pub(super) state: Text<'a>,
    pub(super) created: Text<'a>,
    pub(super) input: Input<'a>,
    pub(super) tasks: Vec<Job<'a>>,
}

/// The object that was worked on: `JobsDetail/Input`, and in `WorkflowExecution` itself.
#[derive(Default)]
pub(super) struct Input<'a> {
    pub(super) bucket: Text<'a>,
    pub(super) object: Text<'a>,
    pub(super) region: Text<'a>,
    /// Name and value of each of `CosHeaders`.
    pub(super) headers: Vec<(Text<'a>, Text<'a>)>,
    /// Where the next `Key` and the next `Value` of the open `CosHeaders` belong.
    next: (usize, usize),
}

/// What `WorkflowExecution/Tasks` and `JobsDetail` have in common: one job.
#[derive(Default, PartialEq)]
pub(super) struct Job<'a> {
    pub(super) job_id: Text<'a>,
    pub(super) name: Text<'a>,
    /// `Type`, or `Tag`.
    pub(super) kind: Text<'a>,
    pub(super) state: Text<'a>,
    pub(super) created: Text<'a>,
    pub(super) started: Text<'a>,
    pub(super) ended: Text<'a>,
    pub(super) code: Text<'a>,
    pub(super) message: Text<'a>,
    pub(super) template: (Text<'a>, Text<'a>),
    pub(super) transcode_template: (Text<'a>, Text<'a>),
    /// `ResultInfo/ObjectInfo` and `ResultInfo/SpriteObjectInfo`.
    pub(super) objects: Vec<Made<'a>>,
    pub(super) sprites: Vec<Made<'a>>,
}

/// `JobsDetail`.
#[derive(Default)]
pub(super) struct Detail<'a> {
    pub(super) job: Job<'a>,
    pub(super) progress: Text<'a>,
    pub(super) queue_id: Text<'a>,
    pub(super) user_data: Text<'a>,
    pub(super) input: Input<'a>,
    /// `Operation/Output`: where the result was asked to go.
    pub(super) output: Output<'a>,
    /// `Operation/MediaResult/OutputFile`: what was made.
    pub(super) files: Vec<Output<'a>>,
    pub(super) workflows: Vec<Workflow<'a>>,
}

/// One object of a `ResultInfo`.
#[derive(Default, PartialEq)]
pub(super) struct Made<'a> {
    pub(super) name: Text<'a>,
    pub(super) url: Text<'a>,
    pub(super) code: Text<'a>,
    pub(super) message: Text<'a>,
}

/// Objects in one place.
#[derive(Default)]
pub(super) struct Output<'a> {
    pub(super) bucket: Text<'a>,
    pub(super) region: Text<'a>,
    pub(super) objects: Vec<Text<'a>>,
    pub(super) sprites: Vec<Text<'a>>,
}

/// `JobsDetail/Workflow`: the execution that a job belongs to.
#[derive(Default)]
pub(super) struct Workflow<'a> {
    pub(super) run_id: Text<'a>,
    pub(super) workflow_id: Text<'a>,
    pub(super) workflow_name: Text<'a>,
    pub(super) node_name: Text<'a>,
}

impl<'a> Input<'a> {
    fn open_headers(&mut self) {
        self.next = (self.headers.len(), self.headers.len());
    }

    fn key(&mut self) -> &mut Text<'a> {
        let at = self.next.0;
        self.next.0 += 1;
        &mut self.header(at).0
    }

    fn value(&mut self) -> &mut Text<'a> {
        let at = self.next.1;
        self.next.1 += 1;
        &mut self.header(at).1
    }

    fn header(&mut self, at: usize) -> &mut (Text<'a>, Text<'a>) {
        if self.headers.len() <= at {
            self.headers.resize(at + 1, (None, None));
        }
        &mut self.headers[at]
    }
}

/// Elements that hold elements.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Node {
    Document,
    Response,
    Run,
    RunHeaders,
    Task,
    ResultInfo,
    ObjectInfo,
    SpriteObjectInfo,
    Detail,
    Input,
    InputHeaders,
    Operation,
    Output,
    MediaResult,
    OutputFile,
    SpriteOutputFile,
    Workflow,
}

impl Node {
    /// What holds it. An outer element is held by the wrapper, where the body has one.
    pub(super) fn parent(self, wrapped: bool) -> Node {
        match self {
            Node::Run | Node::Detail if wrapped => Node::Response,
            Node::Document | Node::Response | Node::Run | Node::Detail => Node::Document,
            Node::RunHeaders | Node::Task => Node::Run,
            Node::ResultInfo => Node::Task,
            Node::ObjectInfo | Node::SpriteObjectInfo => Node::ResultInfo,
            Node::Input | Node::Operation | Node::Workflow => Node::Detail,
            Node::InputHeaders => Node::Input,
            Node::Output | Node::MediaResult => Node::Operation,
            Node::OutputFile => Node::MediaResult,
            Node::SpriteOutputFile => Node::OutputFile,
        }
    }
}

/// Where the text of an element is kept.
type Slot<'a> = for<'b> fn(&'b mut Body<'a>) -> &'b mut Text<'a>;

/// What an element on a known path is.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// It holds elements.
    In(Node),
    /// It holds an id, a word, a time or a number: blanks around it mean nothing.
    Word(Slot<'a>),
    /// It holds text as somebody wrote it: an object's key may begin with a blank.
    Free(Slot<'a>),
}

/// The last of a list; there is one while its element is open.
fn last<T: Default>(list: &mut Vec<T>) -> &mut T {
    if list.is_empty() {
        list.push(T::default());
    }
    list.last_mut().expect("a list that is not empty has a last")
}

fn added<T: Default>(list: &mut Vec<T>) -> &mut T {
    list.push(T::default());
    last(list)
}

impl<'a> Body<'a> {
    fn run(&mut self) -> &mut Run<'a> {
        last(&mut self.runs)
    }

    fn task(&mut self) -> &mut Job<'a> {
        last(&mut self.run().tasks)
    }

    fn detail(&mut self) -> &mut Detail<'a> {
        last(&mut self.details)
    }

    fn job(&mut self) -> &mut Job<'a> {
        &mut self.detail().job
    }

    /// The table: the place of the element `name` inside `node`; `None` for one that says nothing to us.
    pub(super) fn place(&mut self, node: Node, name: &str) -> Option<Place<'a>> {
        use Place::{Free, In, Word};
        Some(match node {
            Node::Document | Node::Response => match name {
                "EventName" => Word(|b| &mut b.event_name),
                "WorkflowExecution" => {
                    self.parts += 1;
                    self.runs.push(Run::default());
                    In(Node::Run)
                }
                "JobsDetail" => {
                    self.parts += 1;
                    self.details.push(Detail::default());
                    In(Node::Detail)
                }
                _ => return None,
            },
            Node::Run => match name {
                "RunId" => Word(|b| &mut b.run().run_id),
                "BucketId" => Word(|b| &mut b.run().input.bucket),
                "Object" => Free(|b| &mut b.run().input.object),
                "Region" => Word(|b| &mut b.run().input.region),
                "WorkflowId" => Word(|b| &mut b.run().workflow_id),
                "WorkflowName" => Word(|b| &mut b.run().workflow_name),
                "Name" => Word(|b| &mut b.run().name),
                "CreateTime" | "Createtime" | "CreationTime" => Word(|b| &mut b.run().created),
                "State" => Word(|b| &mut b.run().state),
                "CosHeaders" => {
                    self.run().input.open_headers();
                    In(Node::RunHeaders)
                }
                "Tasks" => {
                    self.parts += 1;
                    self.run().tasks.push(Job::default());
                    In(Node::Task)
                }
                _ => return None,
            },
            Node::RunHeaders => match name {
                "Key" => Word(|b| b.run().input.key()),
                "Value" => Free(|b| b.run().input.value()),
                _ => return None,
            },
            Node::Task => match name {
                "Type" | "Tag" => Word(|b| &mut b.task().kind),
                "CreateTime" | "Createtime" | "CreationTime" => Word(|b| &mut b.task().created),
                "StartTime" => Word(|b| &mut b.task().started),
                "EndTime" => Word(|b| &mut b.task().ended),
                "State" => Word(|b| &mut b.task().state),
                "JobId" => Word(|b| &mut b.task().job_id),
                "Name" => Word(|b| &mut b.task().name),
                "TemplateId" => Word(|b| &mut b.task().template.0),
                "TemplateName" => Word(|b| &mut b.task().template.1),
                "TranscodeTemplateId" => Word(|b| &mut b.task().transcode_template.0),
                "TranscodeTemplateName" => Word(|b| &mut b.task().transcode_template.1),
                "Code" => Word(|b| &mut b.task().code),
                "Message" => Free(|b| &mut b.task().message),
                "ResultInfo" => In(Node::ResultInfo),
                _ => return None,
            },
            Node::ResultInfo => match name {
                "ObjectInfo" => {
                    self.task().objects.push(Made::default());
                    In(Node::ObjectInfo)
                }
                "SpriteObjectInfo" => {
                    self.task().sprites.push(Made::default());
                    In(Node::SpriteObjectInfo)
                }
                _ => return None,
            },
            Node::ObjectInfo => match name {
                "ObjectName" => Free(|b| &mut last(&mut b.task().objects).name),
                "ObjectUrl" => Word(|b| &mut last(&mut b.task().objects).url),
                "Code" => Word(|b| &mut last(&mut b.task().objects).code),
                "Message" => Free(|b| &mut last(&mut b.task().objects).message),
                _ => return None,
            },
            Node::SpriteObjectInfo => match name {
                "ObjectName" => Free(|b| &mut last(&mut b.task().sprites).name),
                "ObjectUrl" => Word(|b| &mut last(&mut b.task().sprites).url),
                "Code" => Word(|b| &mut last(&mut b.task().sprites).code),
                "Message" => Free(|b| &mut last(&mut b.task().sprites).message),
                _ => return None,
            },
            Node::Detail => match name {
                "Tag" => Word(|b| &mut b.job().kind),
                "CreationTime" | "CreateTime" => Word(|b| &mut b.job().created),
                "StartTime" => Word(|b| &mut b.job().started),
                "EndTime" => Word(|b| &mut b.job().ended),
                "State" => Word(|b| &mut b.job().state),
                "JobId" => Word(|b| &mut b.job().job_id),
                "Code" => Word(|b| &mut b.job().code),
                "Message" => Free(|b| &mut b.job().message),
                "Progress" => Word(|b| &mut b.detail().progress),
                "QueueId" => Word(|b| &mut b.detail().queue_id),
                "Input" => In(Node::Input),
                "Operation" => In(Node::Operation),
                "Workflow" => {
                    self.parts += 1;
                    self.detail().workflows.push(Workflow::default());
                    In(Node::Workflow)
                }
                _ => return None,
            },
            Node::Input => match name {
                "BucketId" => Word(|b| &mut b.detail().input.bucket),
                "Object" => Free(|b| &mut b.detail().input.object),
                "Region" => Word(|b| &mut b.detail().input.region),
                "CosHeaders" => {
                    self.detail().input.open_headers();
                    In(Node::InputHeaders)
                }
                _ => return None,
            },
            Node::InputHeaders => match name {
                "Key" => Word(|b| b.detail().input.key()),
                "Value" => Free(|b| b.detail().input.value()),
                _ => return None,
            },
            Node::Operation => match name {
                "TemplateId" => Word(|b| &mut b.job().template.0),
                "TemplateName" => Word(|b| &mut b.job().template.1),
                "UserData" => Free(|b| &mut b.detail().user_data),
                "Output" => In(Node::Output),
                "MediaResult" => In(Node::MediaResult),
                _ => return None,
            },
            Node::Output => match name {
                "Bucket" => Word(|b| &mut b.detail().output.bucket),
                "Region" => Word(|b| &mut b.detail().output.region),
                "Object" | "AuObject" => Free(|b| added(&mut b.detail().output.objects)),
                "SpriteObject" => Free(|b| added(&mut b.detail().output.sprites)),
                _ => return None,
            },
            Node::MediaResult => match name {
                "OutputFile" => {
                    self.detail().files.push(Output::default());
                    In(Node::OutputFile)
                }
                _ => return None,
            },
            Node::OutputFile => match name {
                "Bucket" => Word(|b| &mut last(&mut b.detail().files).bucket),
                "Region" => Word(|b| &mut last(&mut b.detail().files).region),
                "ObjectName" => Free(|b| added(&mut last(&mut b.detail().files).objects)),
                "SpriteOutputFile" => In(Node::SpriteOutputFile),
                _ => return None,
            },
            Node::SpriteOutputFile => match name {
                "ObjectName" => Free(|b| added(&mut last(&mut b.detail().files).sprites)),
                _ => return None,
            },
            Node::Workflow => match name {
                "RunId" => Word(|b| &mut last(&mut b.detail().workflows).run_id),
                "WorkflowId" => Word(|b| &mut last(&mut b.detail().workflows).workflow_id),
                "WorkflowName" => Word(|b| &mut last(&mut b.detail().workflows).workflow_name),
                "Name" => Word(|b| &mut last(&mut b.detail().workflows).node_name),
                _ => return None,
            },
        })
    }
}
