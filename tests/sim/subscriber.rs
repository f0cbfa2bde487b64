//! A reader group that subscribes to the stream whose head moves: retention drops nothing that it has
//! not read. It speaks to the controller by hand, since it publishes what a group of one reader seldom
//! does: cuts that lag behind in some segments.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use sarit_client::Client;
use sarit_client::event::{From, ReadEvent, Until};
use sarit_env::sim::TurmoilNet;
use sarit_env::{Net as _, Rng};
use sarit_proto::controller::controller_service_client::ControllerServiceClient;
use sarit_proto::controller::reader_group_configuration::RetentionType;
use sarit_proto::controller::{
    ReaderGroupConfiguration, StreamCut as CutMessage, SubscriberStreamCut,
    create_reader_group_response, update_subscriber_status,
};
use sarit_proto::names::ScopedStream;
use sarit_proto::stream_cut::{SegmentPosition, StreamCut};
use sarit_tests::history::Event;
use tonic::transport::{Channel, Endpoint};

use crate::clients::patiently;
use crate::head::Kept;
use crate::world::{CONTROLLER, Phase, SharedRef, breach, note};

const GROUP: &str = "subscriber";
/// A group's id, as clients draw it.
const GROUP_ID: &str = "00000000-0000-0001-0000-000000000002";
/// Longest pauses between two cuts, in milliseconds: some worlds' subscribers keep up, others do not.
const PAUSES_MAX_MS: [u64; 2] = [20, 600];

type Api = ControllerServiceClient<Channel>;

fn api() -> Api {
    let endpoint = Endpoint::from_static("http://controller");
    let channel = endpoint.connect_with_connector_lazy(tower::service_fn(|_| async {
        let stream = TurmoilNet.connect("controller", CONTROLLER).await?;
        Ok::<_, std::io::Error>(TokioIo::new(stream))
    }));
    Api::new(channel)
}

fn message(cut: &StreamCut) -> CutMessage {
    let positions = cut.positions.iter();
    CutMessage {
        stream_info: Some((&cut.stream).into()),
        cut: positions
            .map(|(segment, position)| (segment.0, position.to_raw()))
            .collect(),
    }
}

/// A group, and the cut that it published last, or tried to.
pub(crate) struct Subscriber {
    group: ReaderGroupConfiguration,
    published: StreamCut,
}

impl Subscriber {
    /// Creates the group. It holds retention up from its first cut on, so that is published here.
    pub(crate) async fn create(shared: &SharedRef, client: &Client, stream: &ScopedStream) -> Self {
        let published = patiently(shared, "look for the head", async || {
            client.controller().head(stream).await
        })
        .await;
        let group = create(shared, &published).await;
        let subscriber = Self { group, published };
        while !subscriber.publish(shared).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        subscriber
    }

    /// Reads the stream and publishes how far, until the chaos is over.
    pub(crate) async fn follow(
        mut self,
        shared: &SharedRef,
        client: &Client,
        kept: &Mutex<Kept>,
        rng: &Rng,
    ) {
        let stream = &self.published.stream.clone();
        let mut reader = patiently(shared, "open the subscriber", async || {
            client.event_reader(stream, From::Head, Until::Sealed).await
        })
        .await;
        let mut unpublished: Vec<ReadEvent> = Vec::new();
        let pause_max = PAUSES_MAX_MS[rng.below(2) as usize];
        while shared.lock().phase == Phase::Chaos {
            let pause = Duration::from_millis(1 + rng.below(pause_max));
            let reading = async {
                loop {
                    match reader.next().await {
                        Ok(Some(event)) => unpublished.push(event),
                        Ok(None) => return breach(shared, format!("{stream} came to an end")),
                        Err(error) => return note(shared, || format!("subscriber: {error}")),
                    }
                }
            };
            let _until_then = tokio::time::timeout(pause, reading).await;
            self.look(shared, client).await;
            // Some segments only: another reader of the group would be slower.
            for (segment, position) in reader.cut().positions {
                if rng.chance(0.5) {
                    self.published.positions.insert(segment, position);
                }
            }
            let read = |event: &ReadEvent| match self.published.positions[&event.segment] {
                SegmentPosition::At(offset) => event.offset < offset,
                SegmentPosition::End => true,
            };
            let droppable = unpublished.extract_if(.., |event| read(event));
            let droppable = droppable.filter_map(|event| Event::from_bytes(&event.payload));
            kept.lock().droppable(droppable.collect());
            self.publish(shared).await;
        }
    }

    /// Looks whether the stream still has all that is behind the last cut. At the end of a world that is
    /// seldom to be seen: what was dropped too early is published as read soon after.
    async fn look(&self, shared: &SharedRef, client: &Client) {
        let published = &self.published;
        let head = match client.controller().head(&published.stream).await {
            Ok(head) => head,
            Err(error) => return note(shared, || format!("look for the head: {error}")),
        };
        let dropped = |(segment, position)| position > &published.positions[segment];
        if head.positions.iter().any(dropped) {
            breach(shared, format!("the head is {head:?}, past {published:?}"));
        }
    }

    /// Returns whether the answer came. Without, it may be carried out all the same.
    async fn publish(&self, shared: &SharedRef) -> bool {
        use update_subscriber_status::Status;
        let Self { group, published } = self;
        let request = SubscriberStreamCut {
            subscriber: format!("{}/{GROUP}", group.scope),
            generation: group.generation,
            reader_group_id: group.reader_group_id.clone(),
            stream_cut: Some(message(published)),
        };
        match api().update_subscriber_stream_cut(request).await {
            Ok(reply) if reply.get_ref().status() == Status::Success => {
                shared.lock().report.published += 1;
                true
            }
            Ok(reply) => {
                let status = reply.get_ref().status();
                breach(shared, format!("publish {published:?}: {status:?}"));
                true
            }
            Err(error) => {
                note(shared, || format!("publish: {error}"));
                false
            }
        }
    }
}

async fn create(shared: &SharedRef, head: &StreamCut) -> ReaderGroupConfiguration {
    use create_reader_group_response::Status;
    let group = ReaderGroupConfiguration {
        scope: head.stream.scope.to_string(),
        reader_group_name: GROUP.to_owned(),
        reader_group_id: GROUP_ID.to_owned(),
        retention_type: RetentionType::Manual.into(),
        starting_stream_cuts: vec![message(head)],
        ..ReaderGroupConfiguration::default()
    };
    let reply = patiently(shared, "create the subscriber", async || {
        api().create_reader_group(group.clone()).await
    })
    .await
    .into_inner();
    if reply.status() != Status::Success {
        breach(shared, format!("create the subscriber: {reply:?}"));
    }
    reply.config.unwrap_or(group)
}
