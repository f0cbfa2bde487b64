//! What the recordings do not show.

use sarit_proto::controller::internal::StoreRegistration;
use sarit_proto::controller::*;
use tonic::Code;

use super::wire::Running;
use crate::placement::hosts::Hosts;

fn info(scope: &str, stream: &str) -> StreamInfo {
    StreamInfo {
        scope: scope.to_owned(),
        stream: stream.to_owned(),
        access_operation: 0,
    }
}

fn scope(name: &str) -> ScopeInfo {
    ScopeInfo {
        scope: name.to_owned(),
    }
}

fn config(stream: &str, segments: i32) -> StreamConfig {
    StreamConfig {
        stream_info: Some(info("sc", stream)),
        scaling_policy: Some(ScalingPolicy {
            min_num_segments: segments,
            ..ScalingPolicy::default()
        }),
        ..StreamConfig::default()
    }
}

fn segment(stream: &str, id: i64) -> SegmentId {
    SegmentId {
        stream_info: Some(info("sc", stream)),
        segment_id: id,
    }
}

fn registration(id: &str) -> StoreRegistration {
    StoreRegistration {
        store_id: id.to_owned(),
        advertised_host: "store.test".to_owned(),
        advertised_port: 12345,
        first_container: 0,
        container_count: 4,
        total_containers: 4,
        protocol_version: 1,
    }
}

#[tokio::test]
async fn without_a_store_addresses_are_unavailable_until_one_registers() {
    let controller = Running::with(Hosts::default()).await;
    let mut client = controller.client();
    let refused = client.get_uri(segment("st", 0)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("registered"), "{refused}");
    let ack = controller
        .membership()
        .register(registration("a"))
        .await
        .unwrap();
    assert!(ack.into_inner().heartbeat_ms > 0);
    let node = client.get_uri(segment("st", 0)).await.unwrap().into_inner();
    assert_eq!((&*node.endpoint, node.port), ("store.test", 12345));
    let other = controller
        .membership()
        .register(registration("b"))
        .await
        .unwrap_err();
    assert_eq!(other.code(), Code::FailedPrecondition);
    controller.stop().await.unwrap();
}

#[tokio::test]
async fn two_stores_are_given_out_by_segment_and_other_totals_refused() {
    let controller = Running::with(Hosts::default()).await;
    let mut client = controller.client();
    let part = |id: &str, port, first| StoreRegistration {
        advertised_port: port,
        first_container: first,
        container_count: 2,
        ..registration(id)
    };
    let register = async |store| controller.membership().register(store).await;
    register(part("a", 1, 0)).await.unwrap();
    let mut ports = Vec::new();
    for number in 0..64 {
        // Not all of the stream is missing, and the message says what is.
        match client.get_uri(segment("st", number)).await {
            Ok(node) => assert_eq!(node.into_inner().port, 1),
            Err(refused) => {
                assert_eq!(refused.code(), Code::Unavailable);
                assert!(refused.message().contains("2..4 of 4"), "{refused}");
            }
        }
    }
    register(part("b", 2, 2)).await.unwrap();
    for number in 0..64 {
        let node = client.get_uri(segment("st", number)).await.unwrap();
        let name = format!("sc/st/{number}.#epoch.0");
        let container = sarit_proto::placement::container(&name, 4).0;
        let port = node.into_inner().port;
        assert_eq!(port, 1 + (container / 2) as i32, "{name}");
        // A later epoch's segment of the same number, so also a transaction's, is beside it.
        let later = client
            .get_uri(segment("st", (3 << 32) | number))
            .await
            .unwrap();
        assert_eq!(later.into_inner().port, port);
        ports.push(port);
    }
    assert!(ports.contains(&1) && ports.contains(&2), "{ports:?}");
    client.create_scope(scope("sc")).await.unwrap();
    let mut other = registration("c");
    (other.container_count, other.total_containers) = (8, 8);
    let refused = register(other).await.unwrap_err();
    assert!(refused.message().contains("placed in 4"), "{refused}");
    controller.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_makes_changes_unavailable_and_queries_go_on() {
    let controller = Running::new().await;
    let mut client = controller.client();
    client.create_scope(scope("sc")).await.unwrap();
    client.create_stream(config("st", 2)).await.unwrap();
    controller.segments.set_away(true);
    let refused = client.create_stream(config("other", 2)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let segments = client.get_current_segments(info("sc", "st")).await.unwrap();
    assert_eq!(segments.into_inner().segment_ranges.len(), 2);
    let exists = client
        .check_stream_exists(info("sc", "other"))
        .await
        .unwrap();
    assert!(!exists.into_inner().exists);
    controller.segments.set_away(false);
    let created = client.create_stream(config("other", 2)).await.unwrap();
    assert_eq!(created.into_inner().status, 0);
    controller.stop().await.unwrap();
}

#[tokio::test]
async fn listings_are_sorted_paged_and_end_with_an_empty_page() {
    let controller = Running::new().await;
    let mut client = controller.client();
    client.create_scope(scope("sc")).await.unwrap();
    let count = 603;
    for number in 0..count {
        client
            .create_stream(config(&format!("st{number:04}"), 1))
            .await
            .unwrap();
    }
    let (mut names, mut pages, mut token) = (Vec::new(), 0, String::new());
    loop {
        let request = StreamsInScopeRequest {
            scope: Some(scope("sc")),
            continuation_token: Some(ContinuationToken { token }),
        };
        let page = client
            .list_streams_in_scope(request)
            .await
            .unwrap()
            .into_inner();
        token = page.continuation_token.expect("always there").token;
        if page.streams.is_empty() {
            break;
        }
        assert!(page.streams.len() <= 1000);
        pages += 1;
        names.extend(page.streams.into_iter().map(|info| info.stream));
    }
    let expected: Vec<String> = (0..count).map(|number| format!("st{number:04}")).collect();
    assert_eq!(names, expected);
    assert!(pages >= 2, "{pages} pages");
    controller.stop().await.unwrap();
}

#[tokio::test]
async fn names_that_could_leave_their_place_are_refused_with_a_sentence() {
    let controller = Running::new().await;
    let mut client = controller.client();
    client.create_scope(scope("sc")).await.unwrap();
    let before = controller.store.snapshot();
    let long = "n".repeat(300);
    for name in ["..", "a/b", "a\0b", "a b", "ä", &*long] {
        let created = client.create_scope(scope(name)).await.unwrap().into_inner();
        assert_eq!(
            created.status(),
            create_scope_status::Status::InvalidScopeName,
            "{name:?}"
        );
        let created = client
            .create_stream(config(name, 1))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            created.status(),
            create_stream_status::Status::InvalidStreamName,
            "{name:?}"
        );
        let group = ReaderGroupConfiguration {
            scope: "sc".to_owned(),
            reader_group_name: name.to_owned(),
            reader_group_id: "id".to_owned(),
            ..ReaderGroupConfiguration::default()
        };
        let created = client
            .create_reader_group(group)
            .await
            .unwrap()
            .into_inner();
        let invalid = create_reader_group_response::Status::InvalidRgName;
        assert_eq!(created.status(), invalid, "{name:?}");
        let refused = client.seal_stream(info("sc", name)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name:?}");
        let refused = client
            .get_current_segments(info(name, "st"))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name:?}");
        let refused = client.delete_scope(scope(name)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name:?}");
    }
    assert_eq!(controller.store.snapshot(), before);
    controller.stop().await.unwrap();
}

#[tokio::test]
async fn the_whole_configuration_comes_back() {
    let controller = Running::new().await;
    let mut client = controller.client();
    client.create_scope(scope("sc")).await.unwrap();
    let mut given = config("st", 2);
    given.retention_policy = Some(RetentionPolicy {
        retention_type: 2,
        retention_param: 1000,
        retention_max: i64::MAX,
    });
    given.tags = Some(Tags {
        tag: vec!["a".to_owned(), "b".to_owned()],
    });
    (
        given.timestamp_aggregation_timeout,
        given.rollover_size_bytes,
    ) = (5000, 1024);
    client.create_stream(given.clone()).await.unwrap();
    let kept = client
        .get_stream_configuration(info("sc", "st"))
        .await
        .unwrap();
    assert_eq!(kept.into_inner(), given);
    controller.stop().await.unwrap();
}

#[tokio::test]
async fn a_refused_deletion_of_a_scope_changes_nothing() {
    let controller = Running::new().await;
    let mut client = controller.client();
    client.create_scope(scope("sc")).await.unwrap();
    client.create_stream(config("st", 1)).await.unwrap();
    let before = controller.store.snapshot();
    let refused = client.delete_scope(scope("sc")).await.unwrap().into_inner();
    assert_eq!(refused.status(), delete_scope_status::Status::ScopeNotEmpty);
    assert_eq!(controller.store.snapshot(), before);
    let created = client
        .create_stream(config("other", 1))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(created.status(), create_stream_status::Status::Success);
    controller.stop().await.unwrap();
}

#[tokio::test]
async fn a_scope_is_deleted_with_all_that_is_in_it() {
    let controller = Running::new().await;
    let mut client = controller.client();
    client.create_scope(scope("sc")).await.unwrap();
    for number in 0..20 {
        client
            .create_stream(config(&format!("st{number}"), 2))
            .await
            .unwrap();
    }
    let group = ReaderGroupConfiguration {
        scope: "sc".to_owned(),
        reader_group_name: "g".to_owned(),
        reader_group_id: "id".to_owned(),
        ..ReaderGroupConfiguration::default()
    };
    client.create_reader_group(group).await.unwrap();
    let deleted = client
        .delete_scope_recursive(scope("sc"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(deleted.status(), delete_scope_status::Status::Success);
    assert_eq!(controller.segments.all().len(), 0);
    let left = controller.store.snapshot();
    assert!(left.keys().all(|key| key.starts_with("d/")), "{left:?}");
    controller.stop().await.unwrap();
}

#[tokio::test]
async fn a_scope_that_is_being_deleted_takes_nothing_new_and_keeps_its_name() {
    let controller = Running::new().await;
    let mut client = controller.client();
    client.create_scope(scope("sc")).await.unwrap();
    client.create_stream(config("st", 1)).await.unwrap();
    controller.segments.set_away(true);
    let mut other = controller.client();
    let deleting = other.delete_scope_recursive(scope("sc"));
    let meanwhile = async {
        let begun = |key: &String| key.starts_with("w/");
        while !controller.store.snapshot().keys().any(begun) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let created = client.create_stream(config("new", 1)).await.unwrap();
        let created = created.into_inner().status();
        assert_eq!(created, create_stream_status::Status::ScopeNotFound);
        let created = client.create_scope(scope("sc")).await.unwrap();
        let created = created.into_inner().status();
        assert_eq!(created, create_scope_status::Status::ScopeExists);
        let deleted = client.delete_scope(scope("sc")).await.unwrap();
        let deleted = deleted.into_inner().status();
        assert_eq!(deleted, delete_scope_status::Status::ScopeNotEmpty);
        controller.segments.set_away(false);
    };
    let (deleted, ()) = tokio::join!(deleting, meanwhile);
    let deleted = deleted.unwrap().into_inner().status();
    assert_eq!(deleted, delete_scope_status::Status::Success);
    for _ in 0..2 {
        let again = client.delete_scope_recursive(scope("sc")).await.unwrap();
        let again = again.into_inner().status();
        assert_eq!(again, delete_scope_status::Status::Success);
    }
    let created = client.create_scope(scope("sc")).await.unwrap();
    let created = created.into_inner().status();
    assert_eq!(created, create_scope_status::Status::Success);
    let created = client.create_stream(config("st", 1)).await.unwrap();
    let created = created.into_inner().status();
    assert_eq!(created, create_stream_status::Status::Success);
    controller.stop().await.unwrap();
}

#[tokio::test]
async fn the_head_of_a_truncated_stream_is_the_cut() {
    let controller = Running::new().await;
    let mut client = controller.client();
    client.create_scope(scope("sc")).await.unwrap();
    client.create_stream(config("st", 2)).await.unwrap();
    controller.segments.grow("sc/st/0.#epoch.0", 44);
    let cut = StreamCut {
        stream_info: Some(info("sc", "st")),
        cut: [(0, 44), (1, 0)].into(),
    };
    let truncated = client.truncate_stream(cut).await.unwrap().into_inner();
    assert_eq!(truncated.status(), update_stream_status::Status::Success);
    let request = GetSegmentsRequest {
        stream_info: Some(info("sc", "st")),
        timestamp: 0,
    };
    let head = client.get_segments(request).await.unwrap().into_inner();
    let offsets: Vec<i64> = head
        .segments
        .iter()
        .map(|location| location.offset)
        .collect();
    assert_eq!(offsets, [44, 0]);
    assert_eq!(controller.segments.all()["sc/st/0.#epoch.0"].start, 44);
    controller.stop().await.unwrap();
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_and_the_connection_lives() {
    let controller = Running::new().await;
    let mut client = controller.client();
    let refused = client
        .create_scope(scope(&"n".repeat(5 << 20)))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    client.create_scope(scope("sc")).await.unwrap();
    controller.stop().await.unwrap();
}

#[tokio::test]
async fn a_group_with_thousands_of_streams_is_kept_and_one_too_large_is_refused() {
    let controller = Running::new().await;
    let mut client = controller.client();
    client.create_scope(scope("sc")).await.unwrap();
    let group = |streams: usize| ReaderGroupConfiguration {
        scope: "sc".to_owned(),
        reader_group_name: "g".to_owned(),
        reader_group_id: "id".to_owned(),
        retention_type: 2,
        starting_stream_cuts: (0..streams)
            .map(|number| StreamCut {
                stream_info: Some(info("sc", &format!("st{number}"))),
                ..StreamCut::default()
            })
            .collect(),
        ..ReaderGroupConfiguration::default()
    };
    let refused = client.create_reader_group(group(40_000)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    client.create_stream(config("st2999", 1)).await.unwrap();
    let created = client
        .create_reader_group(group(3000))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(created.config, Some(group(3000)));
    let listed = client
        .list_subscribers(info("sc", "st2999"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.subscribers, ["sc/g"]);
    let updated = client
        .update_reader_group(group(10))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(updated.generation, 1);
    let listed = client
        .list_subscribers(info("sc", "st2999"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.subscribers, [""; 0]);
    controller.stop().await.unwrap();
}

#[tokio::test]
async fn a_group_that_was_reset_publishes_again_from_where_it_was_told_to_start() {
    let controller = Running::new().await;
    let mut client = controller.client();
    client.create_scope(scope("sc")).await.unwrap();
    client.create_stream(config("st", 1)).await.unwrap();
    let cut = |offset| StreamCut {
        stream_info: Some(info("sc", "st")),
        cut: [(0, offset)].into(),
    };
    let group = |offset| ReaderGroupConfiguration {
        scope: "sc".to_owned(),
        reader_group_name: "g".to_owned(),
        reader_group_id: "id".to_owned(),
        retention_type: 2,
        starting_stream_cuts: vec![cut(offset)],
        ..ReaderGroupConfiguration::default()
    };
    let publish = async |generation, offset| {
        let published = SubscriberStreamCut {
            subscriber: "sc/g".to_owned(),
            reader_group_id: "id".to_owned(),
            generation,
            stream_cut: Some(cut(offset)),
        };
        let mut client = controller.client();
        let answer = client.update_subscriber_stream_cut(published).await;
        answer.unwrap().into_inner().status()
    };
    use update_subscriber_status::Status as Published;
    client.create_reader_group(group(0)).await.unwrap();
    assert_eq!(publish(0, 1000).await, Published::Success);
    assert_eq!(publish(0, 600).await, Published::StreamCutNotValid);
    client.update_reader_group(group(500)).await.unwrap();
    assert_eq!(publish(0, 1100).await, Published::GenerationMismatch);
    assert_eq!(publish(1, 600).await, Published::Success);
    assert_eq!(publish(1, 550).await, Published::StreamCutNotValid);
    controller.stop().await.unwrap();
}

#[tokio::test]
async fn a_commit_whose_writer_has_no_reasonable_name_is_refused() {
    let controller = Running::new().await;
    let mut client = controller.client();
    client.create_scope(scope("sc")).await.unwrap();
    client.create_stream(config("st", 1)).await.unwrap();
    let commit = async |writer: usize, timestamp| {
        let mut client = controller.client();
        let begin = CreateTxnRequest {
            stream_info: Some(info("sc", "st")),
            lease: 20_000,
            ..CreateTxnRequest::default()
        };
        let begun = client.create_transaction(begin).await.unwrap();
        let commit = TxnRequest {
            stream_info: Some(info("sc", "st")),
            txn_id: begun.into_inner().txn_id,
            writer_id: "w".repeat(writer),
            timestamp,
        };
        let answer = client.commit_transaction(commit).await;
        answer.map(|answer| answer.into_inner().status())
    };
    for (writer, time) in [(1024, 5), (0, 5), (400_000, i64::MIN)] {
        let accepted = commit(writer, time).await.unwrap();
        assert_eq!(accepted, txn_status::Status::Success, "{writer} bytes");
    }
    let refused = commit(1025, 5).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("at most 1024"), "{refused}");
    controller.stop().await.unwrap();
}
