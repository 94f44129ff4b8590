//! Events: whatever bytes come, `Pdu` parses them or says why not, and what it writes it reads back.

use gibbous_codec::{
    KeySource, Pdu, RoomRules, RoomVersionId, ServerName, VerifyError, VerifyKey, required_servers, verify,
};

/// Parses bytes as an event; the first one picks the room version: `A` is 1, `L` is 12.
pub fn pdu_parse(bytes: &[u8]) {
    let Some((version, json)) = bytes.split_first() else { return };
    let version = RoomVersionId::try_from((1 + version.wrapping_sub(b'A') % 12).to_string()).expect("1 to 12 are IDs");
    let rules = RoomRules::of(&version).expect("1 to 12 are known");
    let Ok(pdu) = Pdu::parse(&rules, json) else { return };

    let stored = pdu.canonical_json().as_bytes();
    assert_eq!(Pdu::parse(&rules, stored).as_ref(), Ok(&pdu), "what is sent is read the same");
    let event_id = pdu.event_id().to_owned();
    assert_eq!(
        Pdu::from_stored(&rules, event_id.clone(), stored).as_ref(),
        Ok(&pdu),
        "what is stored is read the same"
    );
    assert_eq!(Pdu::with_event_id(&rules, event_id, stored).as_ref(), Ok(&pdu), "a given ID changes nothing else");

    let redacted = pdu.redacted(&rules);
    assert_eq!(redacted.redacted(&rules), redacted, "redacting once is enough");
    let parsed = Pdu::parse(&rules, redacted.canonical_json().as_bytes());
    assert_eq!(parsed.as_ref(), Ok(&redacted), "a redacted event is an event of the same ID");

    assert!(pdu.content().get().starts_with('{'));
    assert!(pdu.content().get().len() < pdu.canonical_json().len());
    if let Ok(servers) = required_servers(&rules, &pdu)
        && let Some(server) = servers.first()
    {
        pdu.signing_key_ids(server);
        let verified = verify(&rules, pdu, &NoKeys);
        assert!(matches!(verified, Err(VerifyError::MissingKeys { .. } | VerifyError::BadSignature { .. })));
    }
}

/// Knows no key, so that nothing can be verified.
struct NoKeys;

impl KeySource for NoKeys {
    fn key(&self, _: &ServerName, _: &str) -> Option<VerifyKey> {
        None
    }
}
