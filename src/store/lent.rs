//! Questions to a store that keeps, answered by the connections that only read.

use serde_json::Value;

use super::{DeliveryRow, Filter, News, Outlook, Queries, ReceiptRow, Replica, SinkRow, StoreError, Window};
use crate::Boxed;
use crate::model::{Attempt, Task};

/// A store that has somebody to answer questions in its stead.
pub trait Lent {
    /// Who answers.
    fn readers(&self) -> &dyn Queries;
}

impl<T: Lent + Send + Sync> Queries for T {
    fn executions(&self, filter: Filter) -> Boxed<'_, Result<Vec<Value>, StoreError>> {
        self.readers().executions(filter)
    }

    fn further(&self, before: Option<i64>, count: u64) -> Boxed<'_, Result<Option<i64>, StoreError>> {
        self.readers().further(before, count)
    }

    fn execution(&self, id_or_key: String) -> Boxed<'_, Result<Value, StoreError>> {
        self.readers().execution(id_or_key)
    }

    fn tasks(&self, executions: Vec<i64>) -> Boxed<'_, Result<Vec<Vec<Task>>, StoreError>> {
        self.readers().tasks(executions)
    }

    fn receipts(&self, filter: Filter) -> Boxed<'_, Result<Vec<ReceiptRow>, StoreError>> {
        self.readers().receipts(filter)
    }

    fn receipt(&self, id: i64) -> Boxed<'_, Result<(ReceiptRow, Vec<u8>), StoreError>> {
        self.readers().receipt(id)
    }

    fn deliveries(&self, filter: Filter) -> Boxed<'_, Result<Vec<DeliveryRow>, StoreError>> {
        self.readers().deliveries(filter)
    }

    fn delivery(&self, id: i64) -> Boxed<'_, Result<(DeliveryRow, Vec<Attempt>), StoreError>> {
        self.readers().delivery(id)
    }

    fn sinks(&self) -> Boxed<'_, Result<Vec<SinkRow>, StoreError>> {
        self.readers().sinks()
    }

    fn newest(&self) -> Boxed<'_, Result<i64, StoreError>> {
        self.readers().newest()
    }

    fn news(&self, after: i64) -> Boxed<'_, Result<News, StoreError>> {
        self.readers().news(after)
    }

    fn outlook(&self, from: i64) -> Boxed<'_, Result<Outlook, StoreError>> {
        self.readers().outlook(from)
    }

    fn window(&self, filter: Filter, after: i64, most: u64) -> Boxed<'_, Result<Option<Window>, StoreError>> {
        self.readers().window(filter, after, most)
    }

    fn replicas(&self) -> Boxed<'_, Result<Vec<Replica>, StoreError>> {
        self.readers().replicas()
    }
}
