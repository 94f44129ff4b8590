//! Stored bytes: whatever stands on the disk, `wire` decodes it or says why not, and nothing but what is packed has two
//! encodings.

use std::fmt::Debug;

use gibbous_codec::{
    EventStatesRow, FormatRow, IdRow, Kind, LogRecord, LogRow, RECORDS_A_ROW, RecordBytes, RoomHead, RoomRow,
    ServerKeysRow, ServersRow, UnfoldedRow, decode, decode_bytes, encode, encode_bytes, encode_record, encode_records,
};
use gibbous_storage::state_group::Node;
use serde::{Serialize, de::DeserializeOwned};

/// Decodes bytes as a frame of each kind, and as the payload of the kind that the first one picks.
pub fn wire_decode(bytes: &[u8]) {
    for decode_kind in KINDS {
        decode_kind(Input::Frame(bytes));
    }
    // Nothing but luck finds a checksum: here it is given.
    if let Some((kind, payload)) = bytes.split_first() {
        KINDS[usize::from(*kind) % KINDS.len()](Input::Payload(payload));
    }
}

#[derive(Clone, Copy)]
enum Input<'a> {
    Frame(&'a [u8]),
    Payload(&'a [u8]),
}

/// Append only: the seeds count on the order.
const KINDS: [fn(Input<'_>); 11] = [
    |input| check::<RoomHead>(Kind::Head, input),
    |input| check::<LogRecord>(Kind::LogEntry, input),
    |input| check::<EventStatesRow>(Kind::EventStates, input),
    |input| check::<IdRow>(Kind::IdRow, input),
    |input| check::<UnfoldedRow>(Kind::Unfolded, input),
    |input| check::<ServersRow>(Kind::Servers, input),
    |input| check::<ServerKeysRow>(Kind::ServerKeys, input),
    |input| check::<FormatRow>(Kind::Format, input),
    |input| check::<RoomRow>(Kind::RoomRow, input),
    check_node,
    check_log_row,
];

const VERSION: u8 = 0;

fn check<T: DeserializeOwned + Serialize + PartialEq + Debug>(kind: Kind, input: Input<'_>) {
    on_frame(kind, input, |frame| {
        let Ok(value) = decode::<T>(kind, VERSION, frame) else { return };
        let again = encode(kind, VERSION, &value).expect("what has been decoded can be encoded");
        match kind {
            // It may be packed in several ways.
            Kind::LogEntry => assert_eq!(decode::<T>(kind, VERSION, &again), Ok(value)),
            _ => assert_eq!(again, frame, "{value:?} has one encoding"),
        }
    });
}

fn check_node(input: Input<'_>) {
    on_frame(Kind::Node, input, |frame| {
        let Ok(node) = Node::decode(frame) else { return };
        assert_eq!(node.encode().as_deref(), Ok(frame), "{node:?} has one encoding");
        assert!(node.count() > 0, "an empty state has no node");
        node.hash();
    });
}

fn check_log_row(input: Input<'_>) {
    on_frame(Kind::LogSpan, input, |frame| {
        let Ok(row) = LogRow::decode(frame) else { return };
        assert!([1, RECORDS_A_ROW].contains(&row.records()));
        let Ok(records) = row.iter().collect::<Result<Vec<_>, _>>() else { return };
        let bytes = records.iter().map(RecordBytes::of).collect::<Result<Vec<_>, _>>();
        let bytes = bytes.expect("what has been decoded can be encoded");
        let again = match bytes.first_chunk() {
            Some(eight) => encode_records(eight),
            None => encode_record(&bytes[0]),
        };
        let again = again.expect("what has been decoded can be encoded");
        let again = LogRow::decode(&again).expect("what has been encoded can be decoded");
        assert_eq!(again.iter().collect::<Result<Vec<_>, _>>(), Ok(records));
    });
}

fn on_frame(kind: Kind, input: Input<'_>, check: impl FnOnce(&[u8])) {
    match input {
        Input::Frame(frame) => check(frame),
        Input::Payload(payload) => {
            let Ok(frame) = encode_bytes(kind, VERSION, payload) else { return };
            assert_eq!(decode_bytes(kind, VERSION, &frame), Ok(payload));
            check(&frame);
        }
    }
}
