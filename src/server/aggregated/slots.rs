//! Limits the concurrent requests, in total and for each namespace, so that no namespace waits for another's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::Refusal;

/// Namespaces without a request in progress that are remembered.
const IDLE_NAMESPACES_MAX: usize = 1_024;

pub(super) struct Slots {
    all: Arc<Semaphore>,
    per_namespace: usize,
    by_namespace: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// Held while a request is served.
pub(super) struct Slot {
    _of_namespace: Option<OwnedSemaphorePermit>,
    _of_all: OwnedSemaphorePermit,
}

impl Slots {
    pub fn new(all: usize, per_namespace: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), per_namespace, by_namespace: Mutex::default() }
    }

    fn of(&self, namespace: &str) -> Arc<Semaphore> {
        let mut by_namespace = self.by_namespace.lock().unwrap_or_else(PoisonError::into_inner);
        if by_namespace.len() >= IDLE_NAMESPACES_MAX {
            by_namespace
                .retain(|_, slots| slots.available_permits() < self.per_namespace || Arc::strong_count(slots) > 1);
        }
        by_namespace
            .entry(namespace.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(self.per_namespace)))
            .clone()
    }

    /// The permit of the namespace first: a request that waits for it holds none of the total.
    async fn wait(&self, namespace: Option<&str>) -> Option<Slot> {
        let of_namespace = match namespace {
            None => None,
            Some(namespace) => Some(self.of(namespace).acquire_owned().await.ok()?),
        };
        Some(Slot { _of_namespace: of_namespace, _of_all: self.all.clone().acquire_owned().await.ok()? })
    }

    /// Waits for a slot, for `wait_max` at most.
    pub async fn take_within(&self, namespace: Option<&str>, wait_max: Duration) -> Result<Slot, Refusal> {
        let slot = tokio::time::timeout(wait_max, self.wait(namespace)).await;
        slot.ok().flatten().ok_or_else(Refusal::too_many)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_namespace_leaves_room_for_others_and_all_together_are_bounded() {
        let slots = Slots::new(3, 2);
        let take = |namespace| slots.take_within(namespace, Duration::ZERO);
        let first = take(Some("team-a")).await.unwrap();
        let _second = take(Some("team-a")).await.unwrap();
        assert_eq!(take(Some("team-a")).await.err().map(|refusal| refusal.code.as_u16()), Some(429));
        let other = take(Some("team-b")).await.expect("team-a takes no more than its own");
        assert!(take(Some("team-b")).await.is_err() && take(None).await.is_err(), "all together");
        drop(other);
        let _whole = take(None).await.unwrap();
        drop(first);
        assert!(take(Some("team-a")).await.is_ok());
    }

    #[tokio::test]
    async fn a_client_with_many_names_is_not_remembered_for_ever() {
        let slots = Slots::new(3, 2);
        let _held = slots.take_within(Some("held"), Duration::ZERO).await.unwrap();
        for n in 0..3 * IDLE_NAMESPACES_MAX {
            drop(slots.take_within(Some(&format!("team-{n}")), Duration::ZERO).await.unwrap());
        }
        let by_namespace = slots.by_namespace.lock().unwrap();
        assert!(by_namespace.len() <= IDLE_NAMESPACES_MAX && by_namespace["held"].available_permits() == 1);
    }
}
