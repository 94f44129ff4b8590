//! Long values are packed: by LZ4, with a dictionary of what events have in common.
//!
//! | first byte | then |
//! |---|---|
//! | 0 | the value |
//! | 1 | its length as `u32`, little-endian, and one LZ4 block, whose matches reach back into the dictionary |

mod dictionary;

use std::borrow::Cow;

use dictionary::DICTIONARY;
use lz4_flex::block::{compress_with_dict, decompress_into_with_dict};

/// Shorter values hold little that is found again.
const PACKED_FROM: usize = 256;

const PLAIN: u8 = 0;
const PACKED: u8 = 1;

/// Appends a value, packed if that makes it shorter.
pub(crate) fn pack(value: &[u8], payload: &mut Vec<u8>) {
    if let (PACKED_FROM.., Ok(len)) = (value.len(), u32::try_from(value.len())) {
        let block = compress_with_dict(value, DICTIONARY.as_bytes());
        if block.len() + size_of::<u32>() < value.len() {
            payload.reserve(1 + size_of::<u32>() + block.len());
            payload.push(PACKED);
            payload.extend_from_slice(&len.to_le_bytes());
            payload.extend_from_slice(&block);
            return;
        }
    }
    payload.push(PLAIN);
    payload.extend_from_slice(value);
}

/// Returns the value, or why there is none. It is at most `max` bytes.
pub(crate) fn unpack(payload: &[u8], max: usize) -> Result<Cow<'_, [u8]>, String> {
    match payload {
        [PLAIN, value @ ..] => Ok(Cow::Borrowed(value)),
        [PACKED, l0, l1, l2, l3, block @ ..] => {
            let len = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
            if len > max {
                return Err(format!("unpacked it would be {len} bytes"));
            }
            let mut value = vec![0; len];
            match decompress_into_with_dict(block, &mut value, DICTIONARY.as_bytes()) {
                Ok(found) if found == len => Ok(Cow::Owned(value)),
                Ok(found) => Err(format!("unpacked it is {found} bytes and not {len}")),
                Err(error) => Err(format!("it cannot be unpacked: {error}")),
            }
        }
        _ => Err("it does not say how it is packed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const MAX: usize = 100_000;

    fn packed(value: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        pack(value, &mut payload);
        payload
    }

    #[test]
    fn the_dictionary_is_the_one_that_logs_were_written_with() {
        let hash = blake3::hash(DICTIONARY.as_bytes()).to_hex();
        assert_eq!(hash.as_str(), "896f27aac818c77090769a873d4f522f2fb008ba17695325a5a0403efe61418e");
    }

    #[test]
    fn an_event_becomes_shorter() {
        let event = r#"{"auth_events":["$Ht2VkV1CdTUeYJ9bzKbcHvWBZRCCOwfVqS7PGPJX-O8"],"content":{"membership":"join"},
            "depth":7,"hashes":{"sha256":"x7JyAxvmFXxB1yYyAFnDzmz1vS6pmBkPJiJ7Q3wj5E0"},"origin_server_ts":1700000000000,
            "prev_events":["$9S2cJQ5kN3rK8Xz0u6OZcBvY3qVb7gkG1m4nQwErTyU"],"room_id":"!r:a.example","sender":"@u:a.example",
            "signatures":{"a.example":{"ed25519:a_1":"0Zc2Qm"}},"state_key":"@u:a.example","type":"m.room.member"}"#;
        let payload = packed(event.as_bytes());
        assert!(payload.len() * 4 < event.len() * 3, "{} of {} bytes", payload.len(), event.len());
        assert_eq!(unpack(&payload, MAX).as_deref(), Ok(event.as_bytes()));
    }

    #[test]
    fn a_length_that_is_not_true_is_not_believed() {
        let mut payload = packed(&[7; 1_000]);
        for len in [0, 999, 1_001, u32::MAX] {
            payload[1..5].copy_from_slice(&len.to_le_bytes());
            assert!(unpack(&payload, MAX).is_err(), "{len}");
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(value in vec(any::<u8>(), 0..2_000), times in 1..4_usize) {
            let value = value.repeat(times);
            let payload = packed(&value);
            prop_assert!(payload.len() <= value.len() + 1);
            prop_assert_eq!(unpack(&payload, MAX), Ok(Cow::Owned(value)));
        }

        #[test]
        fn unpacking_arbitrary_bytes_never_panics(len in 0..5_000_u32, block in vec(any::<u8>(), 0..200)) {
            let payload = [&[PACKED][..], &len.to_le_bytes(), &block].concat();
            if let Ok(value) = unpack(&payload, 4_000) {
                prop_assert_eq!(value.len(), len as usize);
            }
        }
    }
}
