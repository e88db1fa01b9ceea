//! Wakes the maintenance thread when the writer has left it something to do.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Wakes the keeper when there is something to do. Ringing never blocks.
#[derive(Clone)]
pub(in crate::store) struct KeeperWaker(SyncSender<()>);

impl KeeperWaker {
    pub fn ring(&self) {
        // If it was rung already, the keeper will wake.
        let (Ok(()) | Err(_)) = self.0.try_send(());
    }
}

pub(in crate::store) fn bell() -> (KeeperWaker, Receiver<()>) {
    let (bell, heard) = sync_channel(1);
    (KeeperWaker(bell), heard)
}
