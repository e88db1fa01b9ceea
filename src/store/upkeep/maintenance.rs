//! The maintenance thread beside the writer: it writes checkpoints and applies retention.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::store::StoreError;
use crate::store::state::checkpoint;
use crate::store::state::shared::Published;
use crate::store::state::shared::Shared;
use crate::store::upkeep::retention;
use crate::store::write::waker::KeeperWaker;
use crate::store::write::writer::{Queue, Request};

/// Interval between its runs if it is not woken.
const WAKE_INTERVAL: Duration = Duration::from_secs(30);

/// Ends its current work when this is dropped.
pub(in crate::store) struct Keeper {
    stop: Arc<AtomicBool>,
    bell: Option<KeeperWaker>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub fn start(
        shared: Arc<Shared>,
        queue: Queue,
        bell: KeeperWaker,
        heard: Receiver<()>,
    ) -> Result<Self, std::io::Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let keep = move || {
            loop {
                let is_over = heard.recv_timeout(WAKE_INTERVAL) == Err(RecvTimeoutError::Disconnected);
                if is_over || stopped.load(Ordering::Acquire) {
                    break;
                }
                if shared.is_checkpoint_due.load(Ordering::Acquire) {
                    // The file is the same without it; the next one is written when it is due again.
                    if let Err(error) = checkpoint(&shared, &queue, &stopped) {
                        tracing::warn!(%error, "no checkpoint was written");
                    }
                    // Only now: until its last slice is there, every commit finds that one is due.
                    shared.is_checkpoint_due.store(false, Ordering::Release);
                }
                retain(&shared, &queue, &stopped);
                let state = shared.state();
                state.tag_index.update(&state.tag_sets);
                shared.expire_past_state();
                let revoked = shared.leases.revoke(Instant::now());
                if revoked > 0 {
                    tracing::warn!(revoked, "readers were open for too long and were closed");
                }
            }
        };
        let thread = std::thread::Builder::new().name("store keeper".to_owned()).spawn(keep)?;
        Ok(Self { stop, bell: Some(bell), thread: Some(thread) })
    }
}

impl Keeper {
    pub fn wake(&self) {
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(bell) = self.bell.take() {
            bell.ring();
        }
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Applies the retention, if it is set.
fn retain(shared: &Shared, queue: &Queue, stop: &AtomicBool) {
    let Some(retention) = *shared.retention.lock().unwrap_or_else(PoisonError::into_inner) else { return };
    let retained = retention::retain(shared, queue, retention, || stop.load(Ordering::Acquire));
    if let Ok(report) = &retained {
        shared.meters.retention_freed.inc_by(report.bytes_freed);
        shared.meters.retention_last.set(shared.now().as_millis() / 1000);
    }
    match retained {
        Ok(report) if report == retention::RetentionReport::default() => {}
        Ok(report) => tracing::info!(
            days_thinned = report.days_thinned,
            days_dropped = report.days_dropped,
            entries_dropped = report.entries_dropped,
            documents_dropped = report.documents_dropped,
            runs_dropped = report.runs_dropped,
            checkpoints_dropped = report.checkpoints_dropped,
            bytes_freed = report.bytes_freed,
            "retention"
        ),
        // The next run continues from there.
        Err(error) => tracing::warn!(%error, "retention was cut off"),
    }
}

/// Writes a checkpoint of the newest state in slices, between which other commits can run. Does nothing if it
/// exists already.
pub(in crate::store) fn checkpoint(shared: &Shared, queue: &Queue, stop: &AtomicBool) -> Result<(), StoreError> {
    let _alone = shared.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
    let Published { state, txn } = shared.published()?;
    if checkpoint::is_there(&txn, state.revision)? {
        return Ok(());
    }
    for slice in checkpoint::slices(state) {
        if stop.load(Ordering::Acquire) {
            break;
        }
        queue.submit(Request::Checkpoint(Box::new(slice)))?;
    }
    Ok(())
}
