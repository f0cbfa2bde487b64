//! Settings of the log.

use serde::Deserialize;

use crate::Error;

/// A frame that carries the largest wire command (16 MiB - 1) and its record headers.
pub(crate) const FRAME_BYTES_MAX: u64 = 17 << 20;
/// Offsets in a file are kept in 32 bits.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 30;
const FILE_BYTES_MIN: u64 = 64 << 10;
/// A file's header, its idle header, and the largest padding.
pub(crate) const FILE_OVERHEAD: u64 = 4 * 4096;

/// Settings of the log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Size of a lane file in bytes, a multiple of 4 KiB. Larger: fewer rolls, but space is given back
    /// in larger pieces, since one frame still needed keeps its whole file.
    pub file_bytes: u64,
    /// Largest body of one frame, in bytes; it must fit a file. Larger frames cost memory and latency.
    pub frame_bytes_max: u64,
    /// Files kept ready for the next roll. More hide a slower disk, each costs `file_bytes` of it.
    pub ready_files: usize,
    /// Most bytes the lane files may take, `None` for no bound but the reserve. When reached,
    /// appends wait.
    pub quota_bytes: Option<u64>,
    /// Bytes kept free on the disk (and, with a quota, allowed beyond it) for the few records that
    /// help to free space: truncation, deletion, checkpoints.
    pub reserve_bytes: u64,
    /// Most bytes one write carries. More gives larger writes under load, at the price of latency.
    pub write_bytes_max: u64,
    /// Most bytes of frame buffers kept warm for reuse, as far as 6 % of the memory budget allow. 0 makes
    /// every frame touch fresh memory.
    pub pool_bytes: usize,
    /// Most bytes read ahead of the consumer in one replay.
    pub replay_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file_bytes: 64 << 20,
            frame_bytes_max: FRAME_BYTES_MAX,
            ready_files: 2,
            quota_bytes: None,
            reserve_bytes: 256 << 20,
            write_bytes_max: 16 << 20,
            pool_bytes: 16 << 20,
            replay_bytes: 4 << 20,
        }
    }
}

impl Config {
    /// Returns settings so small that a test of a few hundred frames rolls and recycles files.
    #[cfg(any(test, feature = "test-util"))]
    pub fn tiny() -> Self {
        Self {
            file_bytes: FILE_BYTES_MIN,
            frame_bytes_max: 32 << 10,
            reserve_bytes: 256 << 10,
            write_bytes_max: 64 << 10,
            ..Self::default()
        }
    }

    /// Checks that the settings fit each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |what: String| Err(Error::Config(what));
        if !(FILE_BYTES_MIN..=FILE_BYTES_MAX).contains(&self.file_bytes)
            || !self.file_bytes.is_multiple_of(4096)
        {
            return refuse(format!(
                "wal.file_bytes is {}, it must be a multiple of 4096 in [{FILE_BYTES_MIN}, {FILE_BYTES_MAX}]",
                self.file_bytes
            ));
        }
        if self.frame_bytes_max > FRAME_BYTES_MAX
            || self.frame_bytes_max + FILE_OVERHEAD > self.file_bytes
        {
            return refuse(format!(
                "wal.frame_bytes_max is {}, it must be at most {FRAME_BYTES_MAX} and fit wal.file_bytes ({}) with {FILE_OVERHEAD} to spare",
                self.frame_bytes_max, self.file_bytes
            ));
        }
        if !(1..=64).contains(&self.ready_files) {
            return refuse(format!(
                "wal.ready_files is {}, it must be in [1, 64]",
                self.ready_files
            ));
        }
        if let Some(quota) = self.quota_bytes
            && quota < 2 * self.file_bytes
        {
            return refuse(format!(
                "wal.quota_bytes is {quota}, it must hold two files of {}",
                self.file_bytes
            ));
        }
        if self.write_bytes_max == 0 || self.replay_bytes == 0 {
            return refuse("wal.write_bytes_max and wal.replay_bytes must be above 0".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_file_smaller_than_a_frame_is_not() {
        Config::default().validate().unwrap();
        Config::tiny().validate().unwrap();
        let config = Config {
            file_bytes: 16 << 20,
            ..Config::default()
        };
        assert!(matches!(config.validate(), Err(Error::Config(_))));
    }
}
