use std::collections::BTreeMap as Map;

use futures_util::stream;
use sarit_proto::ids::Offset;
use sarit_proto::stream_cut::SegmentPosition;
use tonic::{Request, async_trait};

use super::*;
use crate::connection::testing::{Peers, PipeNet};

/// A controller that says what it was told to say.
#[derive(Clone, Debug, Default)]
struct Script(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Failures before an answer, per call.
    failures: Vec<Status>,
    /// Status numbers of answers.
    status: i32,
    calls: Map<&'static str, u32>,
    /// A reader group, and whether the answer to its next update is lost.
    group: api::ReaderGroupConfiguration,
    lose_update: bool,
}

impl Script {
    fn failing(failures: impl IntoIterator<Item = Status>) -> Self {
        let script = Self::default();
        script.0.lock().failures = failures.into_iter().collect();
        script
    }

    fn saying(status: i32) -> Self {
        let script = Self::default();
        script.0.lock().status = status;
        script
    }

    fn called(&self, call: &'static str) -> u32 {
        self.0.lock().calls.get(call).copied().unwrap_or(0)
    }

    fn answer<T>(
        &self,
        call: &'static str,
        reply: impl FnOnce(i32) -> T,
    ) -> Result<Response<T>, Status> {
        let mut state = self.0.lock();
        *state.calls.entry(call).or_default() += 1;
        match state.failures.pop() {
            Some(failure) => Err(failure),
            None => Ok(Response::new(reply(state.status))),
        }
    }
}

#[async_trait]
impl api::ControllerService for Script {
    async fn create_scope(
        &self,
        _: Request<api::ScopeInfo>,
    ) -> Result<Response<api::CreateScopeStatus>, Status> {
        self.answer("createScope", |status| api::CreateScopeStatus { status })
    }

    async fn delete_scope(
        &self,
        _: Request<api::ScopeInfo>,
    ) -> Result<Response<api::DeleteScopeStatus>, Status> {
        self.answer("deleteScope", |status| api::DeleteScopeStatus { status })
    }

    async fn delete_scope_recursive(
        &self,
        _: Request<api::ScopeInfo>,
    ) -> Result<Response<api::DeleteScopeStatus>, Status> {
        let reply = |status| api::DeleteScopeStatus { status };
        self.answer("deleteScopeRecursive", reply)
    }

    async fn create_stream(
        &self,
        _: Request<api::StreamConfig>,
    ) -> Result<Response<api::CreateStreamStatus>, Status> {
        self.answer("createStream", |status| api::CreateStreamStatus { status })
    }

    async fn seal_stream(
        &self,
        _: Request<api::StreamInfo>,
    ) -> Result<Response<api::UpdateStreamStatus>, Status> {
        self.answer("sealStream", |status| api::UpdateStreamStatus { status })
    }

    async fn delete_stream(
        &self,
        _: Request<api::StreamInfo>,
    ) -> Result<Response<api::DeleteStreamStatus>, Status> {
        self.answer("deleteStream", |status| api::DeleteStreamStatus { status })
    }

    async fn get_uri(&self, _: Request<api::SegmentId>) -> Result<Response<api::NodeUri>, Status> {
        self.answer("getURI", |_| api::NodeUri {
            endpoint: "store".to_owned(),
            port: 12345,
        })
    }

    async fn get_current_segments(
        &self,
        request: Request<api::StreamInfo>,
    ) -> Result<Response<api::SegmentRanges>, Status> {
        let range = |number, min_key, max_key| api::SegmentRange {
            segment_id: Some(api::SegmentId {
                stream_info: Some(request.get_ref().clone()),
                segment_id: number,
            }),
            min_key,
            max_key,
        };
        self.answer("getCurrentSegments", |_| api::SegmentRanges {
            segment_ranges: vec![range(1, 0.5, 1.0), range(0, 0.0, 0.5)],
            delegation_token: String::new(),
        })
    }

    async fn get_segments(
        &self,
        _: Request<api::GetSegmentsRequest>,
    ) -> Result<Response<api::SegmentsAtTime>, Status> {
        self.answer("getSegments", |offset| api::SegmentsAtTime {
            segments: vec![api::segments_at_time::SegmentLocation {
                segment_id: Some(api::SegmentId {
                    stream_info: None,
                    segment_id: (2 << 32) | 7,
                }),
                offset: offset.into(),
            }],
            delegation_token: String::new(),
        })
    }

    async fn get_reader_group_config(
        &self,
        _: Request<api::ReaderGroupInfo>,
    ) -> Result<Response<api::ReaderGroupConfigResponse>, Status> {
        let config = Some(self.0.lock().group.clone());
        self.answer("getReaderGroupConfig", |status| {
            api::ReaderGroupConfigResponse { config, status }
        })
    }

    async fn update_reader_group(
        &self,
        request: Request<api::ReaderGroupConfiguration>,
    ) -> Result<Response<api::UpdateReaderGroupResponse>, Status> {
        use api::update_reader_group_response::Status as Updated;
        let (mut new, mut state) = (request.into_inner(), self.0.lock());
        let status = match new.generation == state.group.generation {
            true => Updated::Success,
            false => Updated::InvalidConfig,
        };
        if status == Updated::Success {
            new.generation += 1;
            state.group = new;
        }
        if std::mem::take(&mut state.lose_update) {
            return Err(Status::unavailable("the connection was lost"));
        }
        let generation = state.group.generation;
        let status = status.into();
        Ok(Response::new(api::UpdateReaderGroupResponse {
            status,
            generation,
        }))
    }
}

fn stream() -> ScopedStream {
    "scope/stream".parse().expect("a stream")
}

fn scope() -> ScopeName {
    stream().scope
}

async fn serve(script: Script, peers: Peers) {
    let pipes = stream::unfold(peers, |mut peers| async {
        let pipe = peers.raw().await;
        Some((Ok::<_, std::io::Error>(pipe), peers))
    });
    let service = api::ControllerServiceServer::new(script);
    let served = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(pipes);
    served.await.expect("it serves for ever");
}

fn controller(net: Arc<PipeNet>) -> Controller {
    let endpoint = Endpoint::new("controller", 9090);
    let config = Arc::new(Config::default());
    Controller::new(net, endpoint, config, Rng::seeded(1)).expect("a valid address")
}

/// Runs `client` against a controller that follows `script`.
async fn against<T>(script: &Script, client: impl AsyncFnOnce(Controller) -> T) -> T {
    let (net, peers) = PipeNet::new();
    tokio::select! {
        result = client(controller(net)) => result,
        () = serve(script.clone(), peers) => unreachable!("it serves for ever"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_aim_already_reached_is_told_from_a_new_one() {
    let script = Script::saying(0);
    against(&script, async |controller| {
        assert!(controller.create_scope(&scope()).await.expect("new"));
        let config = StreamConfig::fixed(2).expect("a number of segments");
        assert!(
            controller
                .create_stream(&stream(), &config)
                .await
                .expect("new")
        );
        script.0.lock().status = 2;
        assert!(!controller.create_scope(&scope()).await.expect("it exists"));
        assert!(
            !controller
                .create_stream(&stream(), &config)
                .await
                .expect("it exists")
        );
        assert!(!controller.delete_scope(&scope()).await.expect("it is gone"));
        let deleted = controller.delete_scope_recursive(&scope()).await;
        deleted.expect("it is gone");
        assert!(
            !controller
                .delete_stream(&stream())
                .await
                .expect("it is gone")
        );
        script.0.lock().status = 4;
        controller
            .seal_stream(&stream())
            .await
            .expect("it is sealed");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn refusals_say_what_to_do() {
    let script = Script::saying(3);
    against(&script, async |controller| {
        let error = controller
            .delete_stream(&stream())
            .await
            .expect_err("refused");
        assert_eq!(
            error.to_string(),
            "stream scope/stream is not sealed; seal it before deleting it"
        );
        let config = StreamConfig::fixed(2).expect("a number of segments");
        let error = controller.create_stream(&stream(), &config).await;
        let error = error.expect_err("refused");
        assert_eq!(
            error.to_string(),
            "scope scope does not exist; create it first"
        );
    })
    .await;
    assert_eq!(script.called("deleteStream"), 1, "a refusal is final");
}

#[tokio::test(start_paused = true)]
async fn a_busy_controller_is_asked_again_and_a_missing_call_is_not() {
    let script = Script::failing([
        Status::unavailable("no segment store yet"),
        Status::resource_exhausted("busy"),
    ]);
    against(&script, async |controller| {
        assert!(
            controller
                .create_scope(&scope())
                .await
                .expect("the third time")
        );
        let error = controller
            .list_scopes("")
            .await
            .expect_err("not in the script");
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
    })
    .await;
    assert_eq!(script.called("createScope"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_comes_late_or_goes_away_is_waited_for() {
    let (net, mut peers) = PipeNet::new();
    net.refuse(3);
    let controller = controller(net);
    let script = Script::default();
    let server = async {
        drop(peers.raw().await);
        serve(script.clone(), peers).await;
    };
    let scope = scope();
    tokio::select! {
        made = controller.create_scope(&scope) => assert!(made.expect("it came back")),
        () = server => unreachable!("it serves for ever"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_stream_is_named() {
    let script = Script::failing([Status::not_found("x"), Status::not_found("x")]);
    against(&script, async |controller| {
        let error = controller
            .current_segments(&stream())
            .await
            .expect_err("missing");
        assert!(
            matches!(&error, Error::NoSuchStream(name) if name == "scope/stream"),
            "{error}"
        );
        let error = controller.head(&stream()).await.expect_err("missing");
        assert!(matches!(error, Error::NoSuchStream(_)), "{error}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn segments_come_sorted_by_key_and_cuts_by_segment() {
    let script = Script::saying(55);
    against(&script, async |controller| {
        let owners = controller.current_segments(&stream()).await.expect("two");
        let ids: Vec<_> = owners.iter().map(|owner| owner.segment.0).collect();
        assert_eq!(ids, [0, 1]);
        let head = controller.head(&stream()).await.expect("a cut");
        let position = SegmentPosition::At(Offset(55));
        assert_eq!(
            head.positions,
            Map::from([(SegmentId::new(2, 7), position)])
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_address_is_remembered_until_it_proves_wrong() {
    let script = Script::default();
    against(&script, async |controller| {
        let segment = stream().segment(SegmentId::new(0, 0)).to_string();
        for _ in 0..3 {
            let endpoint = controller.locate(&segment).await.expect("a store");
            assert_eq!(endpoint.to_string(), "store:12345");
        }
        assert_eq!(script.called("getURI"), 1);
        controller.forget(&segment);
        controller.locate(&segment).await.expect("a store");
        assert_eq!(script.called("getURI"), 2);
        let error = controller
            .locate("no segment")
            .await
            .expect_err("no such name");
        assert!(matches!(error, Error::InvalidName(_)), "{error}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_update_of_a_group_whose_answer_is_lost_is_no_conflict() {
    let script = Script::default();
    let config = |automatic_checkpoint_interval_millis| api::ReaderGroupConfiguration {
        scope: "scope".to_owned(),
        reader_group_name: "group".to_owned(),
        automatic_checkpoint_interval_millis,
        ..api::ReaderGroupConfiguration::default()
    };
    against(&script, async |controller| {
        script.0.lock().lose_update = true;
        let updated = controller.update_group(&config(1)).await;
        assert_eq!(updated.expect("it was done the first time"), 1);
        let refused = controller.update_group(&config(2)).await;
        assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    })
    .await;
}
