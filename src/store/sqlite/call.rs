//! How the rest of the process asks the writer to do something.

use super::SqliteStore;
use super::writer::{Fault, Tx, command};
use crate::Boxed;
use crate::store::StoreError;

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
