//! Questions, each in a snapshot of its own.

use serde_json::Value;

use super::connect::{Address, Pool};
use super::{PostgresStore, news, outlook, read, replicas};
use crate::Boxed;
use crate::model::{Attempt, Task};
use crate::store::lent::Lent;
use crate::store::{DeliveryRow, Filter, News, Outlook, Queries, ReceiptRow, Replica, SinkRow, StoreError, Window};

/// Who asks.
pub(super) struct Readers {
    pub(super) pool: Pool,
    /// The token of who asks, if it has a place itself.
    pub(super) here: Option<i64>,
}

/// The store, to be read only.
pub fn open_read_only(address: Address) -> Box<dyn Queries> {
    Box::new(Readers { pool: Pool::new(std::sync::Arc::new(address), 1), here: None })
}

macro_rules! asked {
    ($self:ident, $of:path $(, $with:expr)*) => {
        Box::pin(async move {
            let mut client = $self.pool.get().await?;
            let snapshot = read::snapshot(&mut client).await?;
            $of(&snapshot $(, $with)*).await
        })
    };
}

impl Queries for Readers {
    fn executions(&self, filter: Filter) -> Boxed<'_, Result<Vec<Value>, StoreError>> {
        asked!(self, read::executions, &filter)
    }

    fn further(&self, before: Option<i64>, count: u64) -> Boxed<'_, Result<Option<i64>, StoreError>> {
        asked!(self, read::further, before, count)
    }

    fn execution(&self, id_or_key: String) -> Boxed<'_, Result<Value, StoreError>> {
        asked!(self, read::execution, &id_or_key)
    }

    fn tasks(&self, executions: Vec<i64>) -> Boxed<'_, Result<Vec<Vec<Task>>, StoreError>> {
        asked!(self, read::tasks, &executions)
    }

    fn receipts(&self, filter: Filter) -> Boxed<'_, Result<Vec<ReceiptRow>, StoreError>> {
        asked!(self, read::receipts, &filter)
    }

    fn receipt(&self, id: i64) -> Boxed<'_, Result<(ReceiptRow, Vec<u8>), StoreError>> {
        asked!(self, read::receipt, id)
    }

    fn deliveries(&self, filter: Filter) -> Boxed<'_, Result<Vec<DeliveryRow>, StoreError>> {
        asked!(self, read::deliveries, &filter)
    }

    fn delivery(&self, id: i64) -> Boxed<'_, Result<(DeliveryRow, Vec<Attempt>), StoreError>> {
        asked!(self, read::delivery, id)
    }

    fn sinks(&self) -> Boxed<'_, Result<Vec<SinkRow>, StoreError>> {
        asked!(self, read::sinks)
    }

    fn newest(&self) -> Boxed<'_, Result<i64, StoreError>> {
        Box::pin(async move { news::through(&self.pool).await })
    }

    fn news(&self, after: i64) -> Boxed<'_, Result<News, StoreError>> {
        Box::pin(async move {
            let through = news::through(&self.pool).await?;
            let mut client = self.pool.get().await?;
            let snapshot = read::snapshot(&mut client).await?;
            news::news(&snapshot, after, through).await
        })
    }

    fn outlook(&self, from: i64) -> Boxed<'_, Result<Outlook, StoreError>> {
        asked!(self, outlook::page, from)
    }

    fn window(&self, filter: Filter, after: i64, most: u64) -> Boxed<'_, Result<Option<Window>, StoreError>> {
        asked!(self, read::window, &filter, after, most)
    }

    fn replicas(&self) -> Boxed<'_, Result<Vec<Replica>, StoreError>> {
        Box::pin(async move { replicas::all(&*self.pool.get().await?, self.here).await })
    }
}

impl Lent for PostgresStore {
    fn readers(&self) -> &dyn Queries {
        &self.readers
    }
}
