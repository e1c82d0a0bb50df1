//! How the rest of the process asks the writer to do something.

use tokio::sync::oneshot;

use super::SqliteStore;
use super::writer::{Fault, Tx};
use crate::Boxed;
use crate::store::StoreError;

/// One queued command, whatever it returns.
pub(super) trait Command: Send {
    /// Carries it out; may be called again in another transaction when the first was rolled back.
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), rusqlite::Error>;

    /// Tells the caller, after the commit or in its stead.
    fn reply(self: Box<Self>, committed: Result<(), StoreError>);
}

/// What a caller hears, and the command itself back: memory is cheapest to free on the thread that took it.
pub(super) type Reply<F, T> = (Result<T, StoreError>, F);

struct Call<F, T> {
    run: F,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Reply<F, T>>,
}

impl<F, T: Send> Command for Call<F, T>
where
    F: FnMut(&mut Tx<'_>) -> Result<T, Fault> + Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), rusqlite::Error> {
        self.result = Some(match (self.run)(tx) {
            Ok(value) => Ok(value),
            Err(Fault::Answer(answer)) => Err(answer),
            Err(Fault::Sql(e)) => return Err(e),
        });
        Ok(())
    }

    fn reply(self: Box<Self>, committed: Result<(), StoreError>) {
        let Call { run, result, reply } = *self;
        let never = || Err(StoreError::Unavailable("the command was not carried out".to_owned()));
        let result = committed.and_then(|()| result.unwrap_or_else(never));
        // The caller may have stopped waiting; what it asked for is done all the same.
        let _ = reply.send((result, run));
    }
}

/// A command, and where its caller will hear of it.
pub(super) fn command<F, T>(run: F) -> (Box<dyn Command>, oneshot::Receiver<Reply<F, T>>)
where
    F: FnMut(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
    T: Send + 'static,
{
    let (reply, heard) = oneshot::channel();
    (Box::new(Call { run, result: None, reply }), heard)
}

impl SqliteStore {
    /// Queues a command at once; the future only waits for its answer.
    pub(super) fn call<T: Send + 'static>(
        &self,
        run: impl FnMut(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Boxed<'static, Result<T, StoreError>> {
        Box::pin(self.put(0, run))
    }

    /// The same for what weighs something, as only a callback does.
    pub(super) fn put<F, T>(&self, weight: usize, run: F) -> impl Future<Output = Result<T, StoreError>> + use<F, T>
    where
        F: FnMut(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
        T: Send + 'static,
    {
        let (command, heard) = command(run);
        let put = self.queue.put(command, weight).map_err(|(_, reason)| StoreError::Unavailable(reason.to_owned()));
        async move {
            put?;
            match heard.await {
                Ok((result, _run)) => result,
                Err(_) => Err(StoreError::Unavailable("the store's writer stopped".to_owned())),
            }
        }
    }
}
