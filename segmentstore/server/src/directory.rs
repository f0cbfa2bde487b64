//! The data directory: whose it is, and in which format.
//!
//! ```text
//! LOCK     held while a process uses the directory
//! FORMAT   JSON: uuid, version, slots, containers, owned; written once, when the directory is created
//! chain/   which files are whose log
//! wal/     the log
//! index/   what was true at the last checkpoint of each container
//! ```
//!
//! Version 1 had no index and never cut the log; this release goes on with such a directory, which
//! becomes one of version 2 then, because older releases could not read a log without its beginning.
//!
//! Version 3 is a directory that has a part of the containers only, `owned`: `[first, behind the last]`.
//! Older releases would open all of them. A directory with all of them stays one of version 2.
//!
//! The file FORMAT appears last and in one piece, so a directory without it holds nothing yet.

use std::io;
use std::path::Path;

use bytes::Bytes;
use sarit_env::disk::{DiskLock, lock_patiently, read_file, write_file_atomically};
use sarit_env::{Disk, Rng};
use sarit_proto::placement::{ContainerRange, SLOTS};
use serde::{Deserialize, Serialize};

use crate::Error;

/// The version of a directory with all containers, and of one with a part: the newest there is.
const VERSION: u32 = 2;
const VERSION_OF_PART: u32 = 3;
/// Far more than FORMAT ever has.
pub(crate) const FORMAT_BYTES_MAX: u64 = 64 << 10;

/// A data directory that is ours until dropped.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) format: Format,
    _lock: DiskLock,
}

/// What a data directory is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Format {
    /// The store's identity, for ever: 32 hex digits.
    pub(crate) uuid: String,
    pub(crate) version: u32,
    pub(crate) slots: u32,
    /// How many there are, here and elsewhere.
    pub(crate) containers: u32,
    /// The first one that is here and the one behind the last; nothing: all are here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owned: Option<[u32; 2]>,
}

/// Which containers the settings ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// How many there are, if the settings say so.
    pub(crate) asked: Option<u32>,
    /// How many a new directory has otherwise.
    pub(crate) default: u32,
    /// Those of them that are here, if the settings say so.
    pub(crate) range: Option<ContainerRange>,
}

impl Directory {
    /// Locks the directory, and creates it in this shape if it is not there.
    pub(crate) async fn open(
        disk: &dyn Disk,
        dir: &Path,
        shape: Shape,
        rng: &Rng,
    ) -> Result<Self, Error> {
        let lock = locked(disk, dir).await?;
        let file = dir.join("FORMAT");
        let format = match read_file(disk, &file, FORMAT_BYTES_MAX).await {
            Ok(bytes) => {
                let mut format = Format::parse(dir, &file, &bytes)?;
                format.check(dir, shape)?;
                if format.version < VERSION {
                    format.version = VERSION;
                    write_file_atomically(disk, &file, format.encode())
                        .await
                        .map_err(io("write", &file))?;
                }
                format
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let containers = shape.asked.unwrap_or(shape.default);
                let part = shape.range.filter(|range| !range.is_all_of(containers));
                let format = Format {
                    uuid: format!("{:032x}", rng.u128()),
                    version: part.map_or(VERSION, |_| VERSION_OF_PART),
                    slots: SLOTS,
                    containers,
                    owned: part.map(|range| [range.start(), range.end()]),
                };
                write_file_atomically(disk, &file, format.encode())
                    .await
                    .map_err(io("write", &file))?;
                format
            }
            Err(source) => return Err(io("read", &file)(source)),
        };
        Ok(Self {
            format,
            _lock: lock,
        })
    }
}

impl Directory {
    /// Locks a directory that is to become the one of `format`, and is not another one's.
    pub(crate) async fn recover(
        disk: &dyn Disk,
        dir: &Path,
        format: &Format,
    ) -> Result<Self, Error> {
        let lock = locked(disk, dir).await?;
        let file = dir.join("FORMAT");
        match read_file(disk, &file, FORMAT_BYTES_MAX).await {
            Ok(bytes) if Format::parse(dir, &file, &bytes)?.uuid != format.uuid => {
                return Err(Error::Config(format!(
                    "{} is the directory of another store than long-term storage is of",
                    dir.display()
                )));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io("read", &file)(source)),
        }
        Ok(Self {
            format: format.clone(),
            _lock: lock,
        })
    }

    /// Says that all is there: a directory without FORMAT holds nothing yet.
    pub(crate) async fn complete(&self, disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
        let file = dir.join("FORMAT");
        let written = write_file_atomically(disk, &file, self.format.encode()).await;
        written.map_err(io("write", &file))
    }
}

/// Creates the directory if need be, and locks it.
async fn locked(disk: &dyn Disk, dir: &Path) -> Result<DiskLock, Error> {
    disk.create_dir_all(dir)
        .await
        .map_err(io("create the data directory", dir))?;
    let lock = dir.join("LOCK");
    lock_patiently(disk, &lock)
        .await
        .map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => Error::Locked {
                dir: dir.to_owned(),
            },
            _ => io("lock", &lock)(source),
        })
}

/// Makes errors of a file say what was to be done.
fn io(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let what = format!("{what} {}", path.display());
    move |source| Error::Io { what, source }
}

impl Format {
    /// Returns the store's identity as a number.
    pub(crate) fn identity(&self) -> u128 {
        u128::from_str_radix(&self.uuid, 16).expect("it was made or checked here")
    }

    /// Returns the containers that are here.
    pub(crate) fn owned(&self) -> ContainerRange {
        let [start, end] = self.owned.unwrap_or([0, self.containers]);
        ContainerRange::new(start, end).expect("it was checked when it was read")
    }

    /// Refuses other containers than there are: those left out would be lost, new ones would be empty.
    fn check(&self, dir: &Path, shape: Shape) -> Result<(), Error> {
        let (containers, owned) = (self.containers, self.owned());
        let other = shape.asked.is_some_and(|asked| asked != containers)
            || shape.range.is_some_and(|range| range != owned);
        if !other {
            return Ok(());
        }
        let asked = shape.asked.unwrap_or(containers);
        let range = shape
            .range
            .map_or_else(|| owned.to_string(), |range| range.to_string());
        Err(Error::OtherContainers {
            dir: dir.to_owned(),
            found: format!("the containers {owned} of {containers}"),
            asked: format!("{range} of {asked}"),
        })
    }

    /// Whether `note`, which a store left in long-term storage, is this store's.
    pub(crate) fn is_same_store(&self, note: &[u8]) -> bool {
        serde_json::from_slice::<Self>(note).is_ok_and(|other| other.uuid == self.uuid)
    }

    /// Returns it as JSON.
    pub(crate) fn encode(&self) -> Bytes {
        let mut text =
            serde_json::to_vec_pretty(self).expect("numbers and strings have a JSON form");
        text.push(b'\n');
        text.into()
    }

    pub(crate) fn parse(dir: &Path, file: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let damaged = |what: String| Error::DamagedFormat {
            file: file.to_owned(),
            what,
        };
        // The version comes first: a newer release may have changed everything else.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version: found } =
            serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if found > VERSION_OF_PART {
            return Err(Error::FutureFormat {
                dir: dir.to_owned(),
                found,
                supported: VERSION_OF_PART,
            });
        }
        let format: Self =
            serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if format.slots != SLOTS || !(1..=SLOTS).contains(&format.containers) {
            let Self {
                slots, containers, ..
            } = format;
            return Err(damaged(format!(
                "{containers} containers for {slots} slots"
            )));
        }
        if let Some([start, end]) = format.owned
            && (start >= end || end > format.containers)
        {
            let containers = format.containers;
            return Err(damaged(format!(
                "containers {start}..{end} of {containers}"
            )));
        }
        if format.uuid.len() != 32 || u128::from_str_radix(&format.uuid, 16).is_err() {
            return Err(damaged(format!("uuid {:?}", format.uuid)));
        }
        Ok(format)
    }
}

#[cfg(test)]
mod tests {
    use sarit_env::disk::RealDisk;

    use super::*;

    async fn open(dir: &Path, containers: u32) -> Result<Directory, Error> {
        let asked = Some(containers);
        open_as(dir, asked, None).await
    }

    async fn open_as(
        dir: &Path,
        asked: Option<u32>,
        range: Option<&str>,
    ) -> Result<Directory, Error> {
        let shape = Shape {
            asked,
            default: 16,
            range: range.map(|range| range.parse().unwrap()),
        };
        Directory::open(&RealDisk, dir, shape, &Rng::seeded(1)).await
    }

    #[tokio::test]
    async fn the_number_of_containers_is_fixed_at_creation() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), 4).await.unwrap().format;
        assert_eq!((first.containers, first.version), (4, VERSION));
        assert_eq!(open_as(dir.path(), None, None).await.unwrap().format, first);
        let all = open_as(dir.path(), Some(4), Some("0..4")).await.unwrap();
        assert_eq!(all.format, first);
        drop(all);
        for (asked, range) in [(Some(16), None), (None, Some("0..2"))] {
            let error = open_as(dir.path(), asked, range).await.unwrap_err();
            assert!(error.to_string().contains("0..4 of 4"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_directory_with_a_part_of_the_containers_is_never_opened_with_another() {
        let dir = tempfile::tempdir().unwrap();
        let opened = open_as(dir.path(), Some(4), Some("2..4")).await;
        let first = opened.unwrap().format;
        assert_eq!(first.version, VERSION_OF_PART);
        assert_eq!(first.owned().to_string(), "2..4");
        for range in [None, Some("2..4")] {
            let again = open_as(dir.path(), None, range).await.unwrap();
            assert_eq!(again.format, first);
        }
        for (asked, range) in [
            (Some(4), Some("0..4")),
            (Some(4), Some("0..2")),
            (Some(8), None),
        ] {
            let error = open_as(dir.path(), asked, range).await.unwrap_err();
            assert!(error.to_string().contains("2..4 of 4"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_second_holder_is_refused_with_the_directorys_name() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(dir.path(), 4).await.unwrap();
        let error = open(dir.path(), 4).await.unwrap_err();
        assert!(matches!(&error, Error::Locked { dir: of } if of == dir.path()));
    }

    #[tokio::test]
    async fn a_newer_format_is_refused_whatever_else_it_says() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), 4).await.unwrap();
        let newer = Bytes::from_static(br#"{"version": 4, "shape": "new"}"#);
        let file = dir.path().join("FORMAT");
        write_file_atomically(&RealDisk, &file, newer)
            .await
            .unwrap();
        let error = open(dir.path(), 4).await.unwrap_err();
        assert!(matches!(
            error,
            Error::FutureFormat {
                found: 4,
                supported: VERSION_OF_PART,
                ..
            }
        ));
    }

    #[tokio::test]
    async fn a_directory_of_version_1_becomes_one_of_version_2() {
        let dir = tempfile::tempdir().unwrap();
        let format = open(dir.path(), 4).await.unwrap().format;
        let old = Format {
            version: 1,
            ..format.clone()
        };
        let file = dir.path().join("FORMAT");
        write_file_atomically(&RealDisk, &file, old.encode())
            .await
            .unwrap();
        for _ in 0..2 {
            assert_eq!(open(dir.path(), 4).await.unwrap().format, format);
        }
    }

    #[tokio::test]
    async fn a_damaged_format_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), 4).await.unwrap();
        let file = dir.path().join("FORMAT");
        for text in [
            "",
            "{",
            r#"{"version":1,"uuid":"x","slots":65536,"containers":0}"#,
            r#"{"version":3,"uuid":"00000000000000000000000000000000","slots":65536,"containers":4,"owned":[2,5]}"#,
        ] {
            write_file_atomically(&RealDisk, &file, Bytes::from(text))
                .await
                .unwrap();
            let error = open(dir.path(), 4).await.unwrap_err();
            assert!(error.to_string().contains("FORMAT is damaged"), "{error}");
        }
    }
}
