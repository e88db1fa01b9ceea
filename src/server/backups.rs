//! Backups of the running operator: one file per period in a folder of another volume; the oldest are removed.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::inventory::Timestamp;
use crate::store::{PrivateFile, Store, StoreError, clear_unfinished};

/// After a failed backup.
const RETRY_INTERVAL: Duration = Duration::from_mins(5);
/// The name contains the time, in UTC: names sort by time.
const NAME: &str = "elava-%Y%m%dT%H%M%SZ.backup";

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("the folder for backups, {}, can't be used: {source}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("there is no backup in {}", .0.display())]
    Empty(PathBuf),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The results of the latest backups.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcomes {
    /// When the newest was made, also by an earlier process.
    pub newest: Option<Timestamp>,
    /// Consecutive failures.
    pub failures: u64,
}

#[derive(Debug)]
pub struct Backups {
    folder: PathBuf,
    every: Duration,
    keep: usize,
    outcomes: Mutex<Outcomes>,
}

/// The backups in a folder with their times, the oldest first.
fn made(folder: &Path) -> Result<Vec<(Timestamp, PathBuf)>, BackupError> {
    let unusable = |source| BackupError::Folder { path: folder.to_owned(), source };
    let mut made = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unusable)? {
        let entry = entry.map_err(unusable)?;
        let name = entry.file_name();
        let time = name.to_str().and_then(|name| DateTime::strptime(NAME, name).ok());
        if let Some(time) = time.and_then(|time| time.to_zoned(TimeZone::UTC).ok()) {
            made.push((time.timestamp().into(), entry.path()));
        }
    }
    made.sort();
    Ok(made)
}

/// The newest backup in a folder.
pub fn newest(folder: &Path) -> Result<PathBuf, BackupError> {
    made(folder)?.pop().map(|(_, path)| path).ok_or_else(|| BackupError::Empty(folder.to_owned()))
}

impl Backups {
    pub fn new(folder: PathBuf, every: Duration, keep: usize) -> Self {
        Self { folder, every, keep, outcomes: Mutex::default() }
    }

    pub fn every(&self) -> Duration {
        self.every
    }

    pub fn outcomes(&self) -> Outcomes {
        *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outcome(&self, set: impl FnOnce(&mut Outcomes)) {
        set(&mut self.outcomes.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Makes backups when they are due, until the task is dropped.
    pub async fn run(self: Arc<Self>, store: Store) {
        loop {
            let (backups, reading) = (self.clone(), store.clone());
            let done = tokio::task::spawn_blocking(move || backups.make_if_due(&reading)).await;
            let wait = match done {
                Ok(Ok(wait)) => wait,
                Ok(Err(error)) => {
                    self.outcome(|outcomes| outcomes.failures += 1);
                    tracing::error!(again_in_seconds = RETRY_INTERVAL.as_secs(), "no backup was made: {error}");
                    RETRY_INTERVAL
                }
                Err(_) => RETRY_INTERVAL,
            };
            tokio::time::sleep(wait.min(self.every)).await;
        }
    }

    /// Makes a backup if one is due. Returns how long until the next one.
    fn make_if_due(&self, store: &Store) -> Result<Duration, BackupError> {
        let now = store.now();
        let newest = made(&self.folder)?.pop().map(|(time, _)| time);
        self.outcome(|outcomes| outcomes.newest = newest);
        if let Some(newest) = newest
            && now.since(newest) < self.every
        {
            return Ok(self.every.saturating_sub(now.since(newest)));
        }
        let path = self.folder.join(now.to_jiff().to_zoned(TimeZone::UTC).strftime(NAME).to_string());
        let report = self.write(store, &path)?;
        let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
        tracing::info!(file = %path.display(), revision = report.revision.0, bytes, "backup");
        self.outcome(|outcomes| *outcomes = Outcomes { newest: Some(now), failures: 0 });
        self.prune()?;
        Ok(self.every)
    }

    /// Writes the whole file, or none.
    fn write(&self, store: &Store, path: &Path) -> Result<crate::store::BackupReport, BackupError> {
        let unusable = |source| BackupError::Folder { path: self.folder.clone(), source };
        clear_unfinished(&self.folder, "elava-").map_err(unusable)?;
        let mut file = PrivateFile::begin(path).map_err(unusable)?;
        let mut out = BufWriter::new(file.file());
        let report = store.backup(&mut out)?;
        out.flush().map_err(unusable)?;
        drop(out);
        file.finish().map_err(unusable)?;
        Ok(report)
    }

    /// Removes only files that were made here, and never the newest.
    fn prune(&self) -> Result<(), BackupError> {
        let made = made(&self.folder)?;
        for (_, path) in &made[..made.len().saturating_sub(self.keep.max(1))] {
            let unusable = |source| BackupError::Folder { path: path.clone(), source };
            std::fs::remove_file(path).map_err(unusable)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use std::sync::atomic::{AtomicI64, Ordering};

    const HOUR: i64 = 3_600_000;

    #[test]
    fn one_is_made_each_period_the_oldest_go_and_what_is_not_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let now = Arc::new(AtomicI64::new(1_795_000_000_000));
        let clock = now.clone();
        let path = dir.path().join("elava.redb");
        let clock = Arc::new(move || Timestamp::from_millis(clock.load(Ordering::SeqCst)));
        let store = Store::open(&path, clock).unwrap();
        let folder = dir.path().join("backups");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("of-mine.backup"), "mine").unwrap();
        let backups = Backups::new(folder.clone(), Duration::from_hours(24), 2);
        assert!(matches!(newest(&folder), Err(BackupError::Empty(_))));

        let names = || {
            let made = made(&folder).unwrap();
            made.iter().map(|(_, path)| path.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(backups.make_if_due(&store).unwrap(), Duration::from_hours(24));
        assert_eq!(names(), ["elava-20261118T110640Z.backup"]);
        now.fetch_add(23 * HOUR, Ordering::SeqCst);
        assert_eq!(backups.make_if_due(&store).unwrap(), Duration::from_hours(1), "it is not due yet");
        for _ in 0..3 {
            now.fetch_add(24 * HOUR, Ordering::SeqCst);
            backups.make_if_due(&store).unwrap();
        }
        assert_eq!(names(), ["elava-20261121T100640Z.backup", "elava-20261122T100640Z.backup"]);
        assert_eq!(backups.outcomes().newest, Some(store.now()));
        assert!(folder.join("of-mine.backup").exists());

        let copy = dir.path().join("restored.redb");
        Store::restore(&mut File::open(newest(&folder).unwrap()).unwrap(), &copy).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        now.fetch_add(24 * HOUR, Ordering::SeqCst);
        let error = backups.make_if_due(&store).unwrap_err();
        assert!(error.to_string().contains("can't be used"), "{error}");
    }
}
