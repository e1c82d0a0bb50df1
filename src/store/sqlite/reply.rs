//! Telling callers what became of their commands. To wake a task from another thread costs a system call each time, which
//! for a batch is more than its sync; so the writer hands the whole batch to one task, which wakes the others from within.

use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::call::Command;
use crate::store::StoreError;

type Batch = (Vec<Box<dyn Command>>, Result<(), StoreError>);

/// Who tells callers: a task on the runtime that the store was opened on, else the writer itself.
pub(super) struct Replies(Option<UnboundedSender<Batch>>);

impl Replies {
    pub(super) fn begin() -> Replies {
        let Ok(runtime) = Handle::try_current() else { return Replies(None) };
        let (sender, heard) = unbounded_channel();
        runtime.spawn(tell(heard));
        Replies(Some(sender))
    }

    /// Tells all of the batch, and leaves it empty.
    pub(super) fn give(&self, batch: &mut Vec<Box<dyn Command>>, committed: Result<(), StoreError>) {
        let whole = match &self.0 {
            // One is woken as soon by itself.
            Some(sender) if batch.len() > 1 => {
                let empty = Vec::with_capacity(batch.len());
                let Err(left) = sender.send((std::mem::replace(batch, empty), committed)) else { return };
                left.0
            }
            _ => (std::mem::take(batch), committed),
        };
        reply(whole);
    }
}

/// Ends with the writer.
async fn tell(mut heard: UnboundedReceiver<Batch>) {
    while let Some(batch) = heard.recv().await {
        reply(batch);
    }
}

fn reply((batch, committed): Batch) {
    for command in batch {
        command.reply(committed.clone());
    }
}
