//! The content of `m.room.third_party_invite`.

use crate::{
    json::text::{Elements, member, string},
    verify::VerifyKey,
};

/// An invite by way of a third party, such as an e-mail address.
#[derive(Clone, Debug)]
pub struct ThirdPartyInvite {
    /// The keys with which the third party may sign who is invited: `public_key` and those of `public_keys`. What is no
    /// key is left out: no signature is by it, and it does not spoil the others.
    pub keys: Vec<VerifyKey>,
}

impl ThirdPartyInvite {
    pub(super) fn read(json: &str) -> Self {
        let first = member(json, "public_key");
        let more = Elements::of(member(json, "public_keys").unwrap_or("[]"));
        let keys = first.into_iter().chain(more.filter_map(|key| member(key, "public_key")));
        // Their validity is the identity server's affair: the rules do not ask for it.
        let keys = keys.filter_map(|key| VerifyKey::from_base64(&string(key)?, 0).ok());
        Self { keys: keys.collect() }
    }
}
