//! A store of another version of the format is known by its format row, and left alone.

mod common;

use std::sync::Arc;

use common::{dump, finished, write};
use gibbous_codec::{FormatRow, Kind, encode};
use gibbous_storage::{FORMAT_VERSION, MemoryBackend, Store, StoreError, Table};

/// Returns a store whose format row says something else.
fn store_that_says(magic: [u8; 8], version: u32) -> MemoryBackend {
    let backend = finished();
    let row = FormatRow { magic, version, next_room: 3, purging: Vec::new() };
    write(&backend, Table::Format, b"format", Some(&encode(Kind::Format, 0, &row).expect("the row is short")));
    backend
}

fn expect_refusal<T>(opened: Result<T, StoreError>, named: &str) {
    match opened.err() {
        Some(StoreError::Format { expected, found }) => {
            assert_eq!(expected, format!("version {FORMAT_VERSION}"));
            assert!(found.ends_with(named), "{found}");
        }
        other => panic!("it is not refused by name: {other:?}"),
    }
}

#[test]
fn a_store_of_another_version_is_refused_by_name_and_left_as_it_is() {
    for version in [0, FORMAT_VERSION + 1, u32::MAX] {
        let backend = store_that_says(*b"gibbous\0", version);
        let before = dump(&backend);
        expect_refusal(Store::open(Arc::new(backend.clone())), &format!("version {version}"));
        expect_refusal(Store::open_read_only(Arc::new(backend.clone())), &format!("version {version}"));
        assert_eq!(dump(&backend), before);
    }
}

#[test]
fn a_row_that_a_later_version_has_made_longer_is_known_all_the_same() {
    let backend = finished();
    let row = (*b"gibbous\0", FORMAT_VERSION + 1, 3_u64, Vec::<u64>::new(), "what will be there");
    write(&backend, Table::Format, b"format", Some(&encode(Kind::Format, 0, &row).expect("the row is short")));
    expect_refusal(Store::open(Arc::new(backend)), &format!("version {}", FORMAT_VERSION + 1));
}

#[test]
fn rows_of_another_program_are_no_store() {
    let backend = store_that_says(*b"another\0", FORMAT_VERSION);
    expect_refusal(Store::open(Arc::new(backend)), &format!("magic 616e6f7468657200 version {FORMAT_VERSION}"));
}
