//! How fast the API server is written to, whatever the number of CloudScans: it has other users.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A first look at a neglected organization opens tens of thousands of findings; they stand within minutes.
const WRITES_A_SECOND: u32 = 100;
/// So many go at once after a quiet time.
const BURST: u32 = 200;

pub(super) struct Pace {
    /// The turn of the next write.
    next: Mutex<Instant>,
}

impl Pace {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { next: Mutex::new(now.checked_sub(spacing() * BURST).unwrap_or(now)) }
    }

    /// Waits for a turn.
    pub async fn turn(&self) {
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = Instant::now().checked_sub(spacing() * BURST).unwrap_or(*next);
            let at = (*next).max(earliest);
            *next = at + spacing();
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

fn spacing() -> Duration {
    Duration::from_secs(1) / WRITES_A_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_a_burst_writes_wait_for_their_turn_and_a_quiet_time_gives_another_burst() {
        let pace = Pace::new();
        let started = Instant::now();
        for _ in 0..BURST {
            pace.turn().await;
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        for _ in 0..WRITES_A_SECOND * 3 {
            pace.turn().await;
        }
        let spent = started.elapsed();
        assert!((Duration::from_millis(2_900)..Duration::from_millis(3_100)).contains(&spent), "{spent:?}");
        tokio::time::sleep(Duration::from_mins(1)).await;
        let rested = Instant::now();
        for _ in 0..BURST {
            pace.turn().await;
        }
        assert_eq!(rested.elapsed(), Duration::ZERO);
    }
}
