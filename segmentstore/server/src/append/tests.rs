use bytes::Bytes;
use sarit_container::Outcome;
use sarit_proto::wire::reply::SegmentIsSealed;

use super::*;

const HERE: ContainerId = ContainerId(0);
const WRITER: WriterId = WriterId(7);
const APPEND_BYTES_MAX: usize = 1_000;

struct Client(Appends);

impl Client {
    /// A connection whose writer is set up and had `last` as its last event.
    fn set_up_at(last: i64) -> Self {
        let mut client = Self(Appends::new(10, APPEND_BYTES_MAX, Meters::default()));
        let token = client.set_up("s/a/0", 1);
        let replies = client.complete([(
            token,
            Ok(Done::Setup {
                last_event_number: last,
            }),
        )]);
        assert_eq!(replies, [setup_reply("s/a/0", 1, last)]);
        client
    }

    fn set_up(&mut self, segment: &str, request_id: i64) -> u64 {
        let setup = SetupAppend {
            request_id,
            writer_id: WRITER,
            segment: segment.to_owned(),
            token: String::new(),
        };
        submitted(self.0.set_up(&setup, HERE))
    }

    fn take(&mut self, number: i64, expected_offset: Option<i64>) -> Taken {
        let append = Append {
            writer: WRITER,
            request_id: 100 + number,
            event_number: number,
            event_count: 1,
            expected_offset,
            data: [Bytes::from_static(b"x")].into_iter().collect(),
        };
        self.0.append(append, Permit::none())
    }

    fn append(&mut self, number: i64) -> u64 {
        submitted(self.take(number, None))
    }

    fn append_at(&mut self, number: i64, offset: i64) -> u64 {
        submitted(self.take(number, Some(offset)))
    }

    fn try_complete(
        &mut self,
        outcomes: impl IntoIterator<Item = (u64, Result<Done, Error>)>,
    ) -> Result<Vec<Reply>, Close> {
        let list = outcomes
            .into_iter()
            .map(|(token, result)| Outcome { token, result })
            .collect();
        let mut replies = Vec::new();
        let outcomes = Outcomes {
            container: HERE,
            list,
        };
        self.0
            .complete(outcomes, &mut |reply| replies.push(reply))?;
        Ok(replies)
    }

    fn complete(
        &mut self,
        outcomes: impl IntoIterator<Item = (u64, Result<Done, Error>)>,
    ) -> Vec<Reply> {
        self.try_complete(outcomes).unwrap()
    }
}

fn submitted(taken: Taken) -> u64 {
    match taken {
        Taken::Submit(_, AppendOp::Setup { token, .. } | AppendOp::Append { token, .. }) => token,
        Taken::Refused(reply) => panic!("refused: {reply:?}"),
        Taken::Closed(_, close) => panic!("closed: {close}"),
    }
}

fn stored(length: u64) -> Result<Done, Error> {
    Ok(Done::Appended {
        length: Offset(length),
    })
}

fn sealed() -> Result<Done, Error> {
    Err(Error::SegmentSealed("s/a/0".into()))
}

fn moved() -> Result<Done, Error> {
    let (expected, actual) = (Offset(0), Offset(9));
    Err(Error::WrongOffset {
        segment: "s/a/0".into(),
        expected,
        actual,
    })
}

fn setup_reply(segment: &str, request_id: i64, last_event_number: i64) -> Reply {
    let segment = segment.to_owned();
    AppendSetup {
        request_id,
        segment,
        writer_id: WRITER,
        last_event_number,
    }
    .into()
}

fn ack(event_number: i64, previous_event_number: i64, length: i64) -> Reply {
    DataAppended {
        writer_id: WRITER,
        event_number,
        previous_event_number,
        request_id: 100 + event_number,
        current_segment_write_offset: length,
    }
    .into()
}

fn sealed_reply(number: i64) -> Reply {
    SegmentIsSealed {
        request_id: 100 + number,
        segment: "s/a/0".to_owned(),
        stack_trace: String::new(),
        offset: number,
    }
    .into()
}

fn check_failed(number: i64) -> Reply {
    let (writer_id, request_id) = (WRITER, 100 + number);
    ConditionalCheckFailed {
        writer_id,
        event_number: number,
        request_id,
    }
    .into()
}

#[test]
fn outcomes_that_come_together_get_one_acknowledgement() {
    let mut client = Client::set_up_at(NULL_ATTRIBUTE);
    let token = client.append(1);
    assert_eq!([client.append(2), client.append(5)], [token, token]);
    let replies = client.complete([(token, stored(1)), (token, stored(2)), (token, stored(3))]);
    assert_eq!(replies, [ack(5, i64::MIN, 3)]);
    client.append(6);
    assert_eq!(client.complete([(token, stored(4))]), [ack(6, 5, 4)]);
    assert_eq!(client.0.in_flight(), 0);
}

#[test]
fn the_first_acknowledgement_after_a_set_up_continues_from_its_answer() {
    let mut client = Client::set_up_at(3);
    let token = client.append(10);
    assert_eq!(client.complete([(token, stored(1))]), [ack(10, 3, 1)]);
}

#[test]
fn writers_are_acknowledged_apart() {
    let mut client = Client::set_up_at(NULL_ATTRIBUTE);
    let setup = SetupAppend {
        request_id: 2,
        writer_id: WriterId(8),
        segment: "s/b/0".to_owned(),
        token: String::new(),
    };
    let other = submitted(client.0.set_up(&setup, ContainerId(1)));
    client.complete([(
        other,
        Ok(Done::Setup {
            last_event_number: i64::MIN,
        }),
    )]);
    let one = client.append(1);
    let append = Append {
        writer: WriterId(8),
        request_id: 5,
        event_number: 0,
        event_count: 1,
        expected_offset: None,
        data: AppendData::default(),
    };
    assert_eq!(submitted(client.0.append(append, Permit::none())), other);
    let replies = client.complete([(one, stored(7)), (other, stored(9))]);
    assert_eq!(replies.len(), 2);
    assert_eq!(replies[0], ack(1, i64::MIN, 7));
}

#[test]
fn conditional_appends_are_acknowledged_one_by_one() {
    let mut client = Client::set_up_at(NULL_ATTRIBUTE);
    let token = client.append_at(0, 0);
    client.append_at(1, 1);
    let replies = client.complete([(token, stored(1)), (token, stored(2))]);
    assert_eq!(replies, [ack(0, i64::MIN, 1), ack(1, 0, 2)]);
}

#[test]
fn after_a_failed_condition_the_writer_goes_on_and_may_use_the_number_again() {
    let mut client = Client::set_up_at(NULL_ATTRIBUTE);
    let token = client.append_at(5, 0);
    assert_eq!(client.complete([(token, moved())]), [check_failed(5)]);
    client.append_at(4, 9);
    assert_eq!(
        client.complete([(token, stored(10))]),
        [ack(4, i64::MIN, 10)]
    );
}

#[test]
fn a_failed_condition_does_not_move_the_numbers_of_what_is_under_way() {
    let mut client = Client::set_up_at(NULL_ATTRIBUTE);
    let token = client.append_at(5, 0);
    client.append(6);
    client.complete([(token, moved())]);
    assert!(matches!(
        client.take(4, None),
        Taken::Closed(Some(_), Close::EventNumber)
    ));
}

#[test]
fn a_refusal_is_answered_once_for_everything_under_way() {
    let mut client = Client::set_up_at(NULL_ATTRIBUTE);
    let token = client.append(1);
    client.append(2);
    client.append(3);
    let replies = client.complete([(token, stored(1)), (token, sealed()), (token, sealed())]);
    assert_eq!(replies, [ack(1, i64::MIN, 1), sealed_reply(2)]);
}

#[test]
fn what_follows_a_refusal_is_refused_again_and_not_stored() {
    let mut client = Client::set_up_at(NULL_ATTRIBUTE);
    let token = client.append(1);
    client.complete([(token, sealed())]);
    assert!(matches!(client.take(2, None), Taken::Refused(reply) if reply == sealed_reply(2)));
    assert_eq!(client.0.in_flight(), 0);
}

#[test]
fn a_set_up_revives_a_refused_writer() {
    let mut client = Client::set_up_at(NULL_ATTRIBUTE);
    let token = client.append(4);
    client.complete([(token, sealed())]);
    assert_eq!(client.set_up("s/a/0", 2), token);
    // Not waiting for the answer is allowed, and starting again from below is too.
    client.append(1);
    let setup = Ok(Done::Setup {
        last_event_number: i64::MIN,
    });
    let replies = client.complete([(token, setup), (token, sealed())]);
    assert_eq!(
        replies,
        [setup_reply("s/a/0", 2, i64::MIN), sealed_reply(1)]
    );
}

#[test]
fn acknowledgements_come_before_the_set_up_that_covers_them() {
    let mut client = Client::set_up_at(NULL_ATTRIBUTE);
    let token = client.append(1);
    client.set_up("s/a/0", 2);
    let setup = Ok(Done::Setup {
        last_event_number: 1,
    });
    let replies = client.complete([(token, stored(1)), (token, setup)]);
    assert_eq!(replies, [ack(1, i64::MIN, 1), setup_reply("s/a/0", 2, 1)]);
}

#[test]
fn a_repeated_number_is_acknowledged_again_with_a_lower_previous_one() {
    let mut client = Client::set_up_at(NULL_ATTRIBUTE);
    let token = client.append(3);
    client.complete([(token, stored(1))]);
    client.append(3);
    assert_eq!(client.complete([(token, stored(1))]), [ack(3, 2, 1)]);
}

#[test]
fn a_number_that_goes_back_ends_the_connection_with_an_answer() {
    let mut client = Client::set_up_at(3);
    let Taken::Closed(Some(Reply::InvalidEventNumber(reply)), Close::EventNumber) =
        client.take(2, None)
    else {
        panic!("event 2 after 3 was taken");
    };
    assert_eq!(
        (reply.writer_id, reply.event_number, reply.request_id),
        (WRITER, 2, 102)
    );
    let mut fresh = Client::set_up_at(NULL_ATTRIBUTE);
    assert!(matches!(
        fresh.take(-5, None),
        Taken::Closed(Some(_), Close::EventNumber)
    ));
}

#[test]
fn an_append_without_set_up_ends_the_connection() {
    let mut client = Client(Appends::new(10, APPEND_BYTES_MAX, Meters::default()));
    assert!(matches!(
        client.take(1, None),
        Taken::Closed(None, Close::NotSetUp)
    ));
}

#[test]
fn an_unknown_outcome_ends_the_connection() {
    let mut client = Client::set_up_at(NULL_ATTRIBUTE);
    let token = client.append(1);
    let ended = client.try_complete([(token, Err(Error::OutcomeUnknown))]);
    assert_eq!(ended, Err(Close::Container));
}

#[test]
fn a_writer_that_moves_to_another_segment_keeps_what_is_under_way() {
    let mut client = Client::set_up_at(NULL_ATTRIBUTE);
    let old = client.append(1);
    let new = client.set_up("s/b/0", 2);
    assert_ne!(old, new);
    assert_eq!(client.complete([(old, stored(1))]), [ack(1, i64::MIN, 1)]);
    let setup = Ok(Done::Setup {
        last_event_number: i64::MIN,
    });
    client.complete([(new, setup)]);
    assert_eq!(client.append(1), new);
    // Its old place is free again.
    assert_eq!(client.set_up("s/c/0", 3), old);
}

#[test]
fn a_set_up_of_a_missing_segment_is_answered_and_binds_nothing() {
    let mut client = Client(Appends::new(10, APPEND_BYTES_MAX, Meters::default()));
    let token = client.set_up("s/a/0", 1);
    let missing = || Err(Error::NoSuchSegment("s/a/0".into()));
    client.append(1);
    let replies = client.complete([(token, missing()), (token, missing())]);
    let [Reply::NoSuchSegment(reply)] = &replies[..] else {
        panic!("{replies:?}");
    };
    assert_eq!((reply.request_id, reply.offset), (1, -1));
    assert!(matches!(
        client.take(2, None),
        Taken::Refused(Reply::NoSuchSegment(_))
    ));
}

#[test]
fn a_container_that_does_not_start_refuses_by_reply() {
    let mut client = Client(Appends::new(10, APPEND_BYTES_MAX, Meters::default()));
    let token = client.set_up("s/a/0", 1);
    client.append(1);
    let mut replies = Vec::new();
    client
        .0
        .refuse(&[token, token], "the log is damaged", &mut |reply| {
            replies.push(reply)
        });
    let [Reply::ErrorMessage(reply)] = &replies[..] else {
        panic!("{replies:?}");
    };
    assert_eq!(
        (reply.request_id, &*reply.message),
        (1, "the log is damaged")
    );
}

/// Sets a writer of its own up.
fn set_up_another(client: &mut Client, writer: u128) -> Taken {
    let setup = SetupAppend {
        request_id: 2,
        writer_id: WriterId(writer),
        segment: format!("s/a/{writer}"),
        token: String::new(),
    };
    client.0.set_up(&setup, HERE)
}

#[test]
fn writers_at_work_beyond_the_limit_are_refused_by_reply() {
    let mut client = Client(Appends::new(1, APPEND_BYTES_MAX, Meters::default()));
    client.set_up("s/a/0", 1);
    let refused = set_up_another(&mut client, 8);
    assert!(matches!(refused, Taken::Refused(Reply::ErrorMessage(_))));
}

#[test]
fn beyond_the_limit_those_idle_longest_are_forgotten_and_none_that_waits() {
    const LIMIT: usize = 8;
    let mut client = Client(Appends::new(LIMIT, APPEND_BYTES_MAX, Meters::default()));
    let last_event_number = NULL_ATTRIBUTE;
    let done = || Ok(Done::Setup { last_event_number });
    let waiting = client.set_up("s/a/0", 1);
    for writer in 100..1_000 {
        let token = submitted(set_up_another(&mut client, writer));
        assert!((token as usize) < LIMIT, "places are used again");
        client.complete([(token, done())]);
    }
    assert!(client.0.by_writer.len() <= LIMIT);
    // The newest is known, the oldest is not, and neither is the one that waited gone.
    let mut append = |writer| {
        client.0.append(
            Append {
                writer: WriterId(writer),
                request_id: 3,
                event_number: 1,
                event_count: 1,
                expected_offset: None,
                data: [Bytes::from_static(b"x")].into_iter().collect(),
            },
            Permit::none(),
        )
    };
    assert!(matches!(append(999), Taken::Submit(..)));
    assert!(matches!(append(100), Taken::Closed(None, Close::NotSetUp)));
    let replies = client.complete([(waiting, done())]);
    assert_eq!(replies, [setup_reply("s/a/0", 1, NULL_ATTRIBUTE)]);
}

#[test]
fn what_follows_an_append_that_is_too_large_is_not_stored() {
    let mut client = Client::set_up_at(4);
    let first = client.append(5);
    let large = |number| Append {
        writer: WRITER,
        request_id: 100 + number,
        event_number: number,
        event_count: 1,
        expected_offset: None,
        data: [Bytes::from(vec![0; APPEND_BYTES_MAX + 1])]
            .into_iter()
            .collect(),
    };
    let refused = |taken| match taken {
        Taken::Refused(Reply::ErrorMessage(refusal)) => refusal.request_id,
        _ => panic!("it is refused by a message"),
    };
    assert_eq!(refused(client.0.append(large(6), Permit::none())), 106);
    assert_eq!(
        refused(client.take(7, None)),
        107,
        "it would be the only one of the two"
    );
    let acked = client.complete([(first, Ok(Done::Appended { length: Offset(1) }))]);
    assert!(matches!(&acked[..], [Reply::DataAppended(acked)] if acked.event_number == 5));
    // Set up again, it goes on behind what is there.
    client.set_up("s/a/0", 2);
    // Before that is through, one that is refused must not be forgotten.
    let taken = client.0.append(large(6), Permit::none());
    assert!(matches!(taken, Taken::Closed(Some(_), Close::TooLarge)));
}
