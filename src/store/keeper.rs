//! The thread that looks after the file beside the writer: it writes checkpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::writer::{Queue, Request};
use super::{Shared, StoreError, checkpoint};

/// Wakes the keeper when there is something to do; it is never waited for.
#[derive(Clone)]
pub(super) struct Bell(SyncSender<()>);

impl Bell {
    pub fn ring(&self) {
        // One that was rung already is heard.
        let (Ok(()) | Err(_)) = self.0.try_send(());
    }
}

/// Ends with what it has begun when this is dropped.
pub(super) struct Keeper {
    stop: Arc<AtomicBool>,
    bell: Option<Bell>,
    thread: Option<JoinHandle<()>>,
}

pub(super) fn bell() -> (Bell, Receiver<()>) {
    let (bell, heard) = sync_channel(1);
    (Bell(bell), heard)
}

impl Keeper {
    pub fn start(
        shared: Arc<Shared>,
        queue: Queue,
        bell: Bell,
        heard: Receiver<()>,
    ) -> Result<Self, std::io::Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let keep = move || {
            while heard.recv().is_ok() && !stopped.load(Ordering::Acquire) {
                // The file is the same without it; the next one comes with the next bell.
                if let Err(error) = checkpoint(&shared, &queue, &stopped) {
                    tracing::warn!(%error, "no checkpoint was written");
                }
            }
        };
        let thread = std::thread::Builder::new().name("store keeper".to_owned()).spawn(keep)?;
        Ok(Self { stop, bell: Some(bell), thread: Some(thread) })
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

/// Writes a checkpoint of the newest state in slices, between which others commit.
pub(super) fn checkpoint(shared: &Shared, queue: &Queue, stop: &AtomicBool) -> Result<(), StoreError> {
    let state = shared.state();
    for slice in checkpoint::slices(state) {
        if stop.load(Ordering::Acquire) {
            break;
        }
        queue.ask(Request::Checkpoint(Box::new(slice)))?;
    }
    Ok(())
}
