//! The hashes of an event: its content hash, and the reference hash that names it; and the base64 they are written in.

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use sha2::{Digest, Sha256};

use crate::{
    json::text::{member, string, write_without},
    redact::redact,
    rules::RoomRules,
};

/// Lenient where readers are: padding may stand or not, the bits after the last byte may be set.
const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_encode_padding(false)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);

const STANDARD_BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, CONFIG);
const URL_SAFE_BASE64: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, CONFIG);

/// Returns the bytes that sign an event and are hashed to its reference hash: the event redacted, without signatures
/// (server-server specification, "Calculating the reference hash for an event", "Signing events").
pub(crate) fn signed_json(rules: &RoomRules, event_type: &str, json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    redact(&rules.ruma().redaction, event_type, json, &["signatures", "unsigned"], &mut out);
    out
}

/// Returns the reference hash of the event of which `signed_json` is made, as event IDs write it.
pub(crate) fn reference_hash(rules: &RoomRules, signed_json: &str) -> String {
    let hash = Sha256::digest(signed_json);
    if rules.url_safe_event_id() { URL_SAFE_BASE64.encode(hash) } else { STANDARD_BASE64.encode(hash) }
}

/// Returns the hash of the whole content of the event `json` (server-server specification, "Calculating the content
/// hash for an event").
pub(crate) fn content_hash(json: &str) -> [u8; 32] {
    let mut hashed = String::with_capacity(json.len());
    write_without(json, &["hashes", "signatures", "unsigned"], &mut hashed);
    Sha256::digest(hashed).into()
}

/// Returns the content hash that the event `json` states of itself, if it is base64.
pub(crate) fn stated_content_hash(json: &str) -> Option<Vec<u8>> {
    let hash = member(member(json, "hashes")?, "sha256")?;
    decode_base64(&string(hash)?)
}

/// Decodes base64 as other implementations do: in either alphabet, with or without padding.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    if text.contains(['-', '_']) {
        let standard = text.replace('-', "+").replace('_', "/");
        return STANDARD_BASE64.decode(standard).ok();
    }
    STANDARD_BASE64.decode(text).ok()
}

/// Encodes as unpadded base64 (specification, appendices, "Unpadded Base64").
pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    STANDARD_BASE64.encode(bytes)
}

/// Encodes as unpadded base64 in the URL-safe alphabet, as the IDs of events are.
pub(crate) fn encode_url_safe_base64(bytes: &[u8]) -> String {
    URL_SAFE_BASE64.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_others_read_it() {
        let bytes = vec![0xfb, 0xff, 0xfe, 0x01];
        for text in ["+//+AQ", "-__-AQ", "+//+AQ==", "+/_-AQ", "+//+AR"] {
            assert_eq!(decode_base64(text), Some(bytes.clone()), "{text}");
        }
        for text in ["+//+A", "+//+A!", "+//+ AQ", "é"] {
            assert_eq!(decode_base64(text), None, "{text}");
        }
        assert_eq!(encode_base64(&bytes), "+//+AQ");
    }
}
