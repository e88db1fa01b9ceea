//! Limits the write rate to the API server, whatever the number of CloudScans: it has other users.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A first scan of a neglected organization opens tens of thousands of findings; at this rate they exist within
/// minutes.
const WRITES_PER_SECOND: u32 = 100;
/// Maximum number of writes at once after a quiet time.
const WRITES_BURST: u32 = 200;

pub(super) struct Pace {
    /// The time of the next permit.
    next: Mutex<Instant>,
}

impl Pace {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { next: Mutex::new(now.checked_sub(spacing() * WRITES_BURST).unwrap_or(now)) }
    }

    /// Waits for a permit.
    pub async fn slot(&self) {
        tokio::time::sleep_until(self.take(Instant::now())).await;
    }

    /// The time of the permit for a caller that requests one at `now`.
    fn take(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(spacing() * WRITES_BURST).unwrap_or(*next);
        let at = (*next).max(earliest);
        *next = at + spacing();
        at
    }
}

fn spacing() -> Duration {
    Duration::from_secs(1) / WRITES_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_burst_writes_wait_for_a_permit_and_a_quiet_time_gives_another_burst() {
        let pace = Pace::new();
        let now = Instant::now() + Duration::from_mins(1);
        let waits = |now: Instant| pace.take(now).saturating_duration_since(now);
        for _ in 0..WRITES_BURST {
            assert_eq!(waits(now), Duration::ZERO);
        }
        let last = (0..WRITES_PER_SECOND * 3).map(|_| waits(now)).max().unwrap();
        assert!((Duration::from_millis(2_900)..Duration::from_millis(3_100)).contains(&last), "{last:?}");
        let rested = now + Duration::from_mins(1);
        for _ in 0..WRITES_BURST {
            assert_eq!(waits(rested), Duration::ZERO);
        }
        assert!(waits(rested + Duration::from_nanos(1)) <= spacing());
    }
}
