//! Reading a part of a pack into memory that the caller has.
//!
//! A store in a directory hands out an open file: it is read by one blocking call, straight into place.
//! Others send a stream, which is copied there as it comes. Either way nothing as large as the part is
//! allocated here, by threads that come and go: memory that many of those take in turns is never all
//! given back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use futures_util::StreamExt as _;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore as _};

use super::{Operation, Store, StoreError};
use crate::names::PackName;

impl Store {
    /// Reads what lies at `at` of a pack, unverified, and fills `pieces` with it, one behind the other. Each is
    /// shown to `look`, with its place among them, when it has just been read: then it costs a fraction of what it
    /// costs later, on another core. What that returns comes with the piece.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Pack`] if it is cut off, retryable ones. The pieces are
    /// gone then.
    pub async fn read_into<B: AsMut<[u8]> + Send + 'static, T: Send + 'static>(
        &self,
        name: PackName,
        at: u64,
        mut pieces: Vec<B>,
        mut look: impl FnMut(usize, &[u8]) -> T + Send + 'static,
    ) -> Result<Vec<(B, T)>, StoreError> {
        let path = self.path(&name.to_string());
        let lengths = pieces.iter_mut().map(|piece| piece.as_mut().len() as u64);
        let asked = lengths.sum::<u64>();
        let options = GetOptions {
            range: Some(GetRange::Bounded(at..at + asked)),
            ..GetOptions::default()
        };
        let (objects, from) = (self.0.objects.clone(), path.clone());
        let get = self.reading(async move {
            let got = objects.get_opts(&from, options).await?;
            let given = got.range.end.saturating_sub(got.range.start);
            if given != asked {
                return Ok((given, Vec::new()));
            }
            let pieces = match got.payload {
                GetResultPayload::File(file, _) => from_file(file, at, pieces, look).await?,
                GetResultPayload::Stream(mut stream) => {
                    let mut filled = Filled::new(pieces);
                    while let Some(bytes) = stream.next().await {
                        filled.add(&bytes?)?;
                    }
                    let pieces = filled.finish()?.into_iter().enumerate();
                    let look = |(at, mut piece): (usize, B)| {
                        let seen = look(at, piece.as_mut());
                        (piece, seen)
                    };
                    pieces.map(look).collect()
                }
            };
            Ok((given, pieces))
        });
        let got = self.request(Operation::Get, &path, asked, get).await;
        let (given, pieces) = got.map_err(|refusal| refusal.into_error(&path))?;
        self.0.counts.read(given);
        if given == asked {
            return Ok(pieces);
        }
        Err(crate::Error::WrongLength {
            pack: name,
            at,
            asked,
            given,
        }
        .into())
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the object store in a directory is outside of simulated worlds as a whole"
)]
async fn from_file<B: AsMut<[u8]> + Send + 'static, T: Send + 'static>(
    file: File,
    mut at: u64,
    pieces: Vec<B>,
    mut look: impl FnMut(usize, &[u8]) -> T + Send + 'static,
) -> object_store::Result<Vec<(B, T)>> {
    let read = tokio::task::spawn_blocking(move || {
        let read = pieces.into_iter().enumerate().map(|(place, mut piece)| {
            let bytes = piece.as_mut();
            file.read_exact_at(bytes, at)?;
            at += bytes.len() as u64;
            let seen = look(place, bytes);
            Ok((piece, seen))
        });
        read.collect::<io::Result<Vec<_>>>()
    });
    let read = read
        .await
        .unwrap_or_else(|ended| Err(io::Error::other(ended)));
    read.map_err(failed)
}

/// Pieces that are filled one behind the other.
struct Filled<B> {
    pieces: Vec<B>,
    /// The piece that is being filled, and how far it is.
    piece: usize,
    at: usize,
}

impl<B: AsMut<[u8]>> Filled<B> {
    fn new(pieces: Vec<B>) -> Self {
        let (piece, at) = (0, 0);
        Self { pieces, piece, at }
    }

    fn add(&mut self, mut bytes: &[u8]) -> object_store::Result<()> {
        while !bytes.is_empty() {
            let Some(piece) = self.pieces.get_mut(self.piece) else {
                return Err(failed(io::Error::other(
                    "more bytes came than were asked for",
                )));
            };
            let room = &mut piece.as_mut()[self.at..];
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            self.at += count;
            if count == room.len() {
                (self.piece, self.at) = (self.piece + 1, 0);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> object_store::Result<Vec<B>> {
        while let Some(piece) = self.pieces.get_mut(self.piece)
            && piece.as_mut().is_empty()
        {
            self.piece += 1;
        }
        if self.piece < self.pieces.len() {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(self.pieces)
    }
}

fn failed(error: io::Error) -> object_store::Error {
    object_store::Error::Generic {
        store: "pack",
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::Filled;

    #[test]
    fn pieces_are_filled_in_order_whatever_comes_together() {
        for step in 1..=10 {
            let pieces = vec![vec![0; 3], Vec::new(), vec![0; 1], vec![0; 6]];
            let mut filled = Filled::new(pieces);
            for bytes in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].chunks(step) {
                filled.add(bytes).unwrap();
            }
            let pieces = filled.finish().unwrap();
            assert_eq!(pieces.concat(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
            assert_eq!(pieces[0], [0, 1, 2]);
        }
    }

    #[test]
    fn too_little_and_too_much_are_errors() {
        let mut filled = Filled::new(vec![vec![0; 3]]);
        filled.add(&[1, 2]).unwrap();
        assert!(filled.finish().is_err());
        let mut filled = Filled::new(vec![vec![0; 3]]);
        assert!(filled.add(&[1, 2, 3, 4]).is_err());
    }
}
