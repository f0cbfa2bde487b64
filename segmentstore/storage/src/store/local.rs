//! What a crash leaves in a directory that is used as an object store: files of uploads that were not
//! finished. They have names that no object has, so nobody else would ever find them.

use std::fs::{DirEntry, read_dir, remove_file};
use std::io;
use std::path::Path;

/// Removes the unfinished uploads of packs and copies of indexes in `dir` and returns how many there were.
/// Only for the owner of the directory, before its first upload.
///
/// # Errors
/// What the file system says; a folder that is not there is empty.
#[allow(
    clippy::disallowed_methods,
    reason = "the object store in a directory is outside of simulated worlds as a whole"
)]
pub(super) fn remove_unfinished(dir: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for spread in entries(&dir.join("lts"))? {
        for container in entries(&spread.path())? {
            for file in entries(&container.path())? {
                if file.file_name().to_str().is_some_and(is_unfinished) {
                    remove_file(file.path())?;
                    removed += 1;
                }
            }
        }
    }
    Ok(removed)
}

/// Whether a file has the name of an object with a number behind it, which makes it none.
fn is_unfinished(file: &str) -> bool {
    let Some((object, number)) = file.rsplit_once('#') else {
        return false;
    };
    let ours = object.ends_with(".pk") || object.ends_with(".ix");
    ours && number.bytes().all(|byte| byte.is_ascii_digit())
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
