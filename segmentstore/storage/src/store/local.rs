//! What a crash leaves in a directory that is used as an object store: files of uploads that were not
//! finished. They have names that no object has, so nobody else would ever find them.

use std::fs::{DirEntry, read_dir, remove_file};
use std::io;
use std::path::Path;

/// Removes the unfinished uploads of packs in `dir` and returns how many there were. Only for the owner
/// of the directory, before its first upload.
///
/// # Errors
/// What the file system says; a folder that is not there is empty.
#[allow(
    clippy::disallowed_methods,
    reason = "the object store in a directory is outside of simulated worlds as a whole"
)]
pub fn remove_unfinished(dir: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for spread in entries(&dir.join("lts"))? {
        for container in entries(&spread.path())? {
            for file in entries(&container.path())? {
                let name = file.file_name();
                let unfinished = name.to_str().and_then(|name| name.split_once(".pk#"));
                if unfinished.is_some_and(|(_, n)| n.bytes().all(|byte| byte.is_ascii_digit())) {
                    remove_file(file.path())?;
                    removed += 1;
                }
            }
        }
    }
    Ok(removed)
}

#[allow(clippy::disallowed_methods, reason = "as above")]
fn entries(dir: &Path) -> io::Result<Vec<DirEntry>> {
    match read_dir(dir) {
        Ok(entries) => entries.collect(),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}
