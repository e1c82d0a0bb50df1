//! The middle of the program: what a callback means to us, in our own words.
//!
//! Nothing here does I/O, waits, speaks SQL or knows a vendor's vocabulary; every rule is a pure function, so the
//! stores apply the same rules and the tests are tables. The nouns, in the order the data meets them:
//!
//! - [`Receipt`]: one authentic inbound request, as it came.
//! - [`Update`]: what a receipt says happened.
//! - [`Execution`], [`Task`], together a [`State`]: what we hold to be true.
//! - [`Verdict`]: whether an update is news, a repeat, or a contradiction.
//! - [`Agreement`]: whether a callback says what its vendor says.
//! - [`Change`]: an accepted transition, as sinks are told of it.
//! - [`Rules`]: the [`Route`]s, [`LinkRule`]s and [`Expectation`]s that are judged in the storing transaction.
//! - [`Delivery`]: the promise to tell one sink one change; an [`Attempt`] is one try, its [`Outcome`] how it went.

mod agreement;
mod change;
mod delivery;
mod execution;
mod receipt;
mod retry;
mod route;
mod status;
pub mod text;
mod time;
mod told;
mod trace;
mod update;
pub mod words;

pub use agreement::Agreement;
pub use change::{Change, ChangeMeta, Link};
pub use delivery::{Attempt, Delivery, DeliveryStatus, Learned, Outcome, WaitFor};
pub use execution::{Accepted, Execution, State, Task, Template, Verdict};
pub use receipt::{Receipt, ReceiptStatus};
pub use retry::{Next, RetryPolicy};
pub use route::{Expectation, LinkRule, Program, Route, Rules, SinkRule, Targets};
pub use status::{Advance, Status};
pub use time::{Moment, Time};
pub use trace::Trace;
pub use update::{ExecutionPart, Update};
