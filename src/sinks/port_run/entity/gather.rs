//! Entities of different changes in one call: those that come while a call is under way go with the next one. Nobody
//! waits for a timer, and one alone goes at once. Only what belongs to no run can go so, because a call is tied to one.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{Answered, Entities, Entity, fitting, send};
use crate::model::Time;
use crate::sinks::port_run::api::{Api, Fault, Seen};

type Said = (Result<Answered, Fault>, Seen);

struct Waiting {
    entity: Entity,
    said: oneshot::Sender<Said>,
}

/// Those that wait for the next call.
#[derive(Default)]
pub(in super::super) struct Gather {
    waiting: Mutex<VecDeque<Waiting>>,
    /// Held by the one who calls.
    turn: tokio::sync::Mutex<()>,
}

impl Gather {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one entity, with others where there are some.
    pub(in super::super) async fn send(
        &self,
        api: &Api,
        entities: &Entities,
        entity: Entity,
        now: Time,
        seen: &mut Seen,
    ) -> Result<Answered, Fault> {
        let (said, mut heard) = oneshot::channel();
        self.waiting().push_back(Waiting { entity, said });
        let _turn = self.turn.lock().await;
        loop {
            match heard.try_recv() {
                Ok((answered, saw)) => {
                    *seen = saw;
                    return answered;
                }
                Err(TryRecvError::Closed) => {
                    let reason = "the call that it went with was cut off".to_owned();
                    return Err(Fault::Retry { after_ms: None, reason });
                }
                // It is among those that wait, and nobody else calls.
                Err(TryRecvError::Empty) => self.call(api, entities, now).await,
            }
        }
    }

    /// Makes one call, and tells each whose entity went with it.
    async fn call(&self, api: &Api, entities: &Entities, now: Time) {
        let (some, said): (Vec<_>, Vec<_>) = self.next().into_iter().map(|w| (w.entity, w.said)).unzip();
        let calls = entities.calls(&some, None);
        let call = calls.first().expect("the caller's own is among those that wait");
        let mut seen = Seen::default();
        let answered = send(api, call, now, &mut seen).await;
        // Whether one of them spoils the call for the others can only be seen by sending each alone.
        let is_spoilt =
            some.len() > 1 && matches!(&answered, Ok(all) if !all.forbidden && all.refused.len() == some.len());
        for (entity, said) in some.iter().zip(said) {
            let own = match &answered {
                Ok(_) if is_spoilt => {
                    let alone = entities.calls(std::slice::from_ref(entity), None);
                    send(api, &alone[0], now, &mut seen).await
                }
                Ok(answered) => Ok(answered.clone().of(&entity.identifier)),
                Err(fault) => Err(fault.clone()),
            };
            // Whoever does not listen any more was cut off, and tries again.
            let _ = said.send((own, seen.clone()));
        }
    }

    /// As many as one call takes, in their order, none of them twice.
    fn next(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting();
        waiting.retain(|one| !one.said.is_closed());
        let mut names = BTreeSet::new();
        let others = waiting.iter().take_while(|one| names.insert(one.entity.identifier.as_str()));
        let count = fitting(others.map(|one| &one.entity));
        let count = count.min(waiting.len());
        waiting.drain(..count).collect()
    }
}
