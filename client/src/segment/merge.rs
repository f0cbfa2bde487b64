//! Merging segments: transactions' parts into the segments they were written for.

use sarit_proto::wire::{Reply, command};

use super::Segments;
use super::admin::{Repeat, unexpected};
use crate::Error;

impl Segments {
    /// Appends `sources` to `target`, in this order, and removes them. Sources that are gone, because
    /// they were merged before or never were, are passed over: so the call may be repeated.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`] or [`Error::SegmentSealed`] if the target is not there or takes no more;
    /// and those of [`Error`].
    pub async fn merge(&self, target: &str, sources: &[String]) -> Result<(), Error> {
        let reply = self
            .ask(target, Repeat::Safe, |request_id| {
                command::MergeSegmentsBatch {
                    request_id,
                    target: target.to_owned(),
                    sources: sources.to_vec(),
                    token: String::new(),
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::SegmentsBatchMerged(_))) => Ok(()),
            other => Err(unexpected(other)),
        }
    }
}
