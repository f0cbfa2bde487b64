use super::*;

const BATCH_EVENTS: usize = 10;
const BATCH_BYTES: usize = 1000;

fn window() -> Window {
    Window::new(WriterConfig {
        batch_bytes_max: BATCH_BYTES,
        batch_events_max: BATCH_EVENTS,
        window_bytes_max: 3000,
        small_appends_max: 2,
        ..WriterConfig::default()
    })
}

fn push(window: &mut Window, payloads: impl IntoIterator<Item = Vec<u8>>) {
    for payload in payloads {
        window.push(Event {
            payload: payload.into(),
            ticket: Ticket {
                position: KeyPosition::ZERO,
                generation: 0,
                acknowledge: None,
            },
        });
    }
}

fn small(numbers: std::ops::Range<u8>) -> impl Iterator<Item = Vec<u8>> {
    numbers.map(|number| vec![number])
}

fn payloads(events: Vec<Event>) -> Vec<Vec<u8>> {
    events.into_iter().map(|e| e.payload.to_vec()).collect()
}

fn acknowledged(window: &mut Window, event_number: i64) -> usize {
    let mut done = Vec::new();
    window.acknowledge(event_number, &mut done);
    done.len()
}

fn bytes(append: &Append) -> Vec<u8> {
    append.data.pieces().flatten().copied().collect()
}

#[test]
fn waiting_events_leave_together_framed_and_numbered_from_one() {
    let mut window = window();
    push(&mut window, [b"a".to_vec(), b"bc".to_vec()]);
    let append = window.next_append().expect("there is room");
    assert_eq!(append.events, 2);
    assert_eq!(append.last_event_number, 2);
    assert_eq!(bytes(&append), b"\0\0\0\0\0\0\0\x01a\0\0\0\0\0\0\0\x02bc");
    assert_eq!(window.next_append(), None, "nothing is left");
}

#[test]
fn an_append_has_at_most_so_many_events_and_bytes_but_always_one() {
    let mut window = window();
    push(&mut window, small(0..12));
    assert_eq!(window.next_append().map(|a| a.events), Some(10));
    assert_eq!(window.next_append().map(|a| a.events), Some(2));
    assert_eq!(acknowledged(&mut window, 12), 12);

    push(
        &mut window,
        [vec![1; 600], vec![2; 600], vec![3; 5000], vec![4]],
    );
    let sizes: Vec<_> = std::iter::from_fn(|| window.next_append())
        .map(|append| append.data.len())
        .collect();
    assert_eq!(sizes, [608, 608, 5008], "then the window is full");
    assert_eq!(acknowledged(&mut window, 15), 3);
    assert_eq!(window.next_append().map(|a| a.last_event_number), Some(16));
}

#[test]
fn appends_that_are_not_full_are_held_back_while_enough_of_them_are_under_way() {
    let mut window = window();
    push(&mut window, small(0..1));
    assert!(window.next_append().is_some());
    push(&mut window, small(1..2));
    assert!(window.next_append().is_some());
    push(&mut window, small(2..5));
    assert_eq!(window.next_append(), None);
    push(&mut window, small(5..12));
    let full = window.next_append().expect("a full one is never held back");
    assert_eq!((full.events, full.last_event_number), (10, 12));
    push(&mut window, small(12..14));
    assert_eq!(window.next_append(), None);
    assert_eq!(acknowledged(&mut window, 1), 1);
    assert_eq!(window.next_append().map(|a| a.last_event_number), Some(14));
}

#[test]
fn after_a_reconnect_exactly_what_is_missing_is_sent_again_under_its_numbers() {
    let mut window = window();
    push(&mut window, small(0..10));
    let first = window.next_append().expect("full");
    push(&mut window, small(10..20));
    let second = window.next_append().expect("full");
    push(&mut window, small(20..30));
    let third = window.next_append().expect("full");

    assert_eq!(
        acknowledged(&mut window, i64::MIN),
        0,
        "a new writer has nothing durable"
    );
    let all: Vec<_> = window.resend().collect();
    assert_eq!(all, [first, second.clone(), third.clone()]);

    assert_eq!(
        acknowledged(&mut window, 10),
        10,
        "the first ack was lost, not the append"
    );
    let rest: Vec<_> = window.resend().collect();
    assert_eq!(rest, [second, third]);
}

#[test]
fn an_append_that_was_stored_in_part_is_completed() {
    let mut window = window();
    push(&mut window, small(0..10));
    let whole = window.next_append().expect("full");
    assert_eq!(acknowledged(&mut window, 3), 3);
    let rest: Vec<_> = window.resend().collect();
    assert_eq!(rest.len(), 1);
    assert_eq!((rest[0].events, rest[0].last_event_number), (7, 10));
    assert_eq!(bytes(&rest[0]), bytes(&whole)[27..]);
    assert_eq!(acknowledged(&mut window, 10), 7);
}

#[test]
fn large_events_are_sent_and_handed_back_without_a_copy() {
    let mut window = Window::new(WriterConfig::default());
    let sizes = [5, 5_000, 0, 6_000, 7_000, 9];
    let fill = |size: usize| vec![size as u8; size];
    push(&mut window, sizes.map(fill));
    let given: Vec<_> = window.pending.iter().map(|e| e.payload.as_ptr()).collect();
    let append = window.next_append().expect("there is room");
    let mut expected = BytesMut::new();
    for size in sizes {
        event::put_event(&mut expected, &fill(size)).expect("small enough");
    }
    assert_eq!((append.events, bytes(&append)), (6, expected.to_vec()));
    let by_reference = append
        .data
        .pieces()
        .filter(|piece| given.contains(&piece.as_ptr()));
    assert_eq!(by_reference.count(), 3);
    // A server that stores only part of it.
    assert_eq!(acknowledged(&mut window, 2), 2);
    let rest: Vec<_> = window.resend().map(|append| bytes(&append)).collect();
    assert_eq!(rest, [&expected[5 + 5_000 + 2 * EVENT_HEADER..]]);
    let back = window.take();
    assert_eq!(back[1].payload.as_ptr(), given[3]);
    assert_eq!(payloads(back), [0, 6_000, 7_000, 9].map(fill));
}

#[test]
fn an_ended_segment_hands_back_everything_not_acknowledged_in_order() {
    let mut window = window();
    push(&mut window, small(0..10));
    window.next_append();
    push(&mut window, small(10..15));
    window.next_append();
    push(&mut window, small(15..18));
    assert_eq!(acknowledged(&mut window, 10), 10);
    assert_eq!(payloads(window.take()), small(10..18).collect::<Vec<_>>());
    assert_eq!(payloads(window.take()), Vec::<Vec<u8>>::new());
    push(&mut window, small(0..1));
    assert!(window.next_append().is_some(), "no room was lost");
}

#[test]
fn late_acknowledgements_change_nothing() {
    let mut window = window();
    push(&mut window, small(0..5));
    window.next_append();
    assert_eq!(acknowledged(&mut window, 5), 5);
    assert_eq!(acknowledged(&mut window, 5), 0);
    assert_eq!(acknowledged(&mut window, 2), 0);
}
