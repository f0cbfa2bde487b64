//! The commands that join segments.
//!
//! Refusals of a single merge name the source, those of a batch the target, like the official server's.

use sarit_container::{AttributeUpdate, Container, Error};
use sarit_proto::wire::Reply;
use sarit_proto::wire::command::{MergeSegments, MergeSegmentsBatch};
use sarit_proto::wire::field::{self, MergedSource};
use sarit_proto::wire::reply::{SegmentsBatchMerged, SegmentsMerged};

use super::{Answer, Terms, What, check_segment};
use crate::reply::Refused;

/// `AttributeUpdate`: whatever the value was.
const REPLACE: u8 = 1;
/// `AttributeUpdate`: if the value is the one given.
const REPLACE_IF_EQUALS: u8 = 4;

impl What {
    pub(super) async fn merge(
        &self,
        container: &Container,
        merge: MergeSegments,
        terms: &Terms,
    ) -> Answer {
        let MergeSegments { target, source, .. } = merge;
        if let Err(message) = self.check_source(container, &source, terms) {
            return Ok(self.illegal(message));
        }
        let updates: Result<Vec<_>, _> = merge.attribute_updates.iter().map(update).collect();
        let updates = match updates {
            Ok(updates) => updates,
            Err(message) => return Ok(self.illegal(message)),
        };
        let request_id = self.request_id;
        match container.merge(&target, &source, updates).await {
            Ok(length) => Ok(SegmentsMerged {
                request_id,
                target,
                source,
                new_target_write_offset: length.0 as i64,
            }
            .into()),
            Err(error) => Refused {
                request_id,
                segment: &source,
                offset: -1,
            }
            .reply(error),
        }
    }

    pub(super) async fn merge_batch(
        &self,
        container: &Container,
        merge: MergeSegmentsBatch,
        terms: &Terms,
    ) -> Result<Reply, Error> {
        for source in &merge.sources {
            if let Err(message) = self.check_source(container, source, terms) {
                return Ok(self.illegal(message));
            }
        }
        let lengths = container.merge_batch(&merge.target, &merge.sources).await?;
        let merged = merge.sources.into_iter().zip(lengths);
        let merged = merged.map(|(source, length)| MergedSource {
            source,
            target_length: length.0 as i64,
        });
        Ok(SegmentsBatchMerged {
            request_id: self.request_id,
            target: merge.target,
            merged: merged.collect(),
        }
        .into())
    }

    /// A source that lives elsewhere would look as if it were gone, which in a batch counts as merged.
    fn check_source(
        &self,
        container: &Container,
        source: &str,
        terms: &Terms,
    ) -> Result<(), String> {
        check_segment(source)?;
        if terms.host.owner(source) == container.id() {
            return Ok(());
        }
        let target = &self.segment;
        Err(format!(
            "segment {source} lives in another container than {target}"
        ))
    }
}

fn update(update: &field::AttributeUpdate) -> Result<AttributeUpdate, String> {
    let expected = match update.update_type {
        REPLACE => None,
        REPLACE_IF_EQUALS => Some(update.old_value),
        other => return Err(format!("an attribute update of type {other}")),
    };
    Ok(AttributeUpdate {
        id: update.attribute_id,
        value: update.new_value,
        expected,
    })
}
