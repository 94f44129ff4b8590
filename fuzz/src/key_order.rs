//! Table keys: they compare as what they are made of does, begin with their first parts, and have one encoding.

use arbitrary::{Arbitrary, Unstructured};
use gibbous_codec::{KeyBuf, KeyReader};

/// Parts in one key at most: tables have three.
const PARTS_MAX: usize = 4;

/// A part of a key; what a table's keys are made of does not change from key to key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Number,
    Terminated,
    Rest,
}

/// A value at a part. Numbers are never compared with bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

/// Takes the parts of a table's keys, then the values of two keys; what is left is read as such a key itself.
pub fn key_order(bytes: &[u8]) {
    let u = &mut Unstructured::new(bytes);
    let Ok(parts) = parts(u) else { return };
    let (Ok(a), Ok(b)) = (values(&parts, u), values(&parts, u)) else { return };
    let (key_a, key_b) = (encode(&a, &parts), encode(&b, &parts));
    assert_eq!(key_a.cmp(&key_b), a.cmp(&b), "{a:?}, {b:?}");
    for (values, key) in [(&a, &key_a), (&b, &key_b)] {
        assert_eq!(decode(key, &parts).as_ref(), Some(values), "{parts:?}");
    }
    // A scan by the first parts finds the keys that have them, and no others; the rest is no whole part.
    for first in 0..=parts.len() {
        let whole = &parts[..first];
        if whole.last() != Some(&Part::Rest) {
            assert_eq!(key_b.starts_with(&encode(&a[..first], whole)), a[..first] == b[..first], "{a:?}, {b:?}");
        }
    }
    let left = u.bytes(u.len()).unwrap_or_default();
    for key in [left, bytes] {
        if let Some(values) = decode(key, &parts) {
            assert_eq!(encode(&values, &parts), key, "{values:?} has one encoding");
        }
    }
}

fn parts(u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<Part>> {
    let mut parts = Vec::new();
    for _ in 0..u.int_in_range(1..=PARTS_MAX)? {
        let part = *u.choose(&[Part::Number, Part::Terminated, Part::Rest])?;
        parts.push(part);
        if part == Part::Rest {
            break;
        }
    }
    Ok(parts)
}

fn values(parts: &[Part], u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<Value>> {
    let value = |part: &Part| match part {
        Part::Number => u64::arbitrary(u).map(Value::Number),
        Part::Terminated | Part::Rest => {
            let len = u.int_in_range(0..=6)?;
            Ok(Value::Bytes(u.bytes(len)?.to_vec()))
        }
    };
    parts.iter().map(value).collect()
}

fn encode(values: &[Value], parts: &[Part]) -> Vec<u8> {
    let mut key = KeyBuf::new();
    for (value, part) in values.iter().zip(parts) {
        match (value, part) {
            (Value::Number(number), _) => key = key.u64(*number),
            (Value::Bytes(bytes), Part::Rest) => return key.rest(bytes),
            (Value::Bytes(bytes), _) => key = key.bytes_terminated(bytes),
        }
    }
    key.into_vec()
}

fn decode(key: &[u8], parts: &[Part]) -> Option<Vec<Value>> {
    let mut reader = KeyReader::new(key);
    let mut values = Vec::new();
    for part in parts {
        values.push(match part {
            Part::Number => Value::Number(reader.u64().ok()?),
            Part::Terminated => Value::Bytes(reader.bytes_terminated().ok()?),
            Part::Rest => {
                values.push(Value::Bytes(reader.rest().to_vec()));
                return Some(values);
            }
        });
    }
    reader.end().ok().map(|()| values)
}
