//! Files that hold an inventory: only their owner can read them, and they exist only once they are complete.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Suffix of the names of unfinished files.
const UNFINISHED: &str = ".part";

/// A file that is being written, beside its final path and under an unpredictable name. Dropping it removes it.
#[derive(Debug)]
pub struct PrivateFile {
    file: NamedTempFile,
    path: PathBuf,
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl PrivateFile {
    /// Creates the unfinished file beside `path`, readable by its owner only. What killed processes left
    /// unfinished for the same path is removed.
    ///
    /// # Errors
    ///
    /// The error of the operating system if the file can't be created.
    pub fn begin(path: &Path) -> io::Result<Self> {
        let mut prefix = path.file_name().unwrap_or_default().to_owned();
        prefix.push(".");
        // What a killed process left of the same file: that of a store would fill the volume. If this fails, it
        // stays.
        drop(clear_unfinished(folder(path), &prefix.to_string_lossy()));
        let file = tempfile::Builder::new().prefix(&prefix).suffix(UNFINISHED).tempfile_in(folder(path))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Its path until it is finished.
    pub fn unfinished(&self) -> &Path {
        self.file.path()
    }

    /// The open file, to be written.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Gives it its name, durably. Nothing that has the name is overwritten.
    ///
    /// # Errors
    ///
    /// The error of the operating system if the file can't be synced or renamed, with the kind
    /// [`io::ErrorKind::AlreadyExists`] if there is a file with its name.
    pub fn finish(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist_noclobber(&self.path).map_err(|error| error.error)?;
        File::open(folder(&self.path))?.sync_all()
    }

    /// As [`PrivateFile::finish`], but replaces what has the name.
    pub(in crate::store) fn replace(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist(&self.path).map_err(|error| error.error)?;
        File::open(folder(&self.path))?.sync_all()
    }
}

/// Removes files that killed processes left unfinished in a folder, if their names begin with `prefix`.
///
/// # Errors
///
/// The error of the operating system if the folder can't be read or a file can't be removed. Others may have been
/// removed by then.
pub fn clear_unfinished(folder: &Path, prefix: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(prefix) && name.ends_with(UNFINISHED) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Creates an empty file if there is none. Its name is durable: otherwise a power failure could take a new store with
/// everything that was committed to it.
pub(in crate::store) fn create(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => File::open(folder(path))?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_its_owner_s_whole_or_not_there_and_overwrites_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.backup");
        let mut file = PrivateFile::begin(&path).unwrap();
        file.file().write_all(b"all of it").unwrap();
        assert!(!path.exists());
        assert_eq!(mode(file.unfinished()), 0o600);
        file.finish().unwrap();
        assert_eq!((mode(&path), std::fs::read(&path).unwrap().as_slice()), (0o600, b"all of it".as_slice()));

        let mut second = PrivateFile::begin(&path).unwrap();
        second.file().write_all(b"another").unwrap();
        assert!(second.finish().is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"all of it");
        let mut killed = dir.path().join("b.backup.unforeseen").into_os_string();
        killed.push(UNFINISHED);
        std::fs::write(killed, b"half of it").unwrap();
        drop(PrivateFile::begin(&dir.path().join("b.backup")).unwrap());
        let left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["a.backup"], "nothing unfinished stays");

        let store = dir.path().join("store");
        create(&store).unwrap();
        create(&store).unwrap();
        assert_eq!(mode(&store), 0o600);
    }
}
