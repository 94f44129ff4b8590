//! Signing keys: ours, and other servers' as they publish them.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::Path,
};

use gibbous::{OwnedServerName, ServerName, Signer};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, UInt,
    api::federation::discovery::ServerSigningKeys,
    canonical_json::to_canonical_value,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, KeyPair, PublicKeyMap, sign_json, verify_json},
};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::Error;

/// The name of our one key: it never changes.
const VERSION: &str = "1";
const KEY_ID: &str = "ed25519:1";
/// How many keys a server may have at once: a hundred, as in the engine.
const KEYS_MAX: usize = 100;
/// How long keys are believed at most (server-server specification, "Publishing Keys"): seven days.
const VALID_MS_MAX: u64 = 7 * 86_400_000;

/// Our server's one signing key.
#[derive(Debug)]
pub struct OurKey {
    pub(crate) server: OwnedServerName,
    pub(crate) pair: Ed25519KeyPair,
}

impl OurKey {
    /// Reads the key from a directory, and makes one where there is none. It is kept for good: other servers remember
    /// it.
    pub fn load(server: OwnedServerName, dir: &Path) -> Result<Self, Error> {
        let file = dir.join("signing.key");
        let document = match fs::read(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let document = Ed25519KeyPair::generate();
                // Nobody else may read it, and under its name it is there wholly or not at all.
                let mut unnamed = NamedTempFile::new_in(dir)?;
                unnamed.write_all(&document)?;
                unnamed.as_file().sync_all()?;
                unnamed.persist_noclobber(&file)?;
                // The name is in the directory, which is synced by itself; elsewhere than on Unix it cannot be opened.
                #[cfg(unix)]
                fs::File::open(dir)?.sync_all()?;
                document.to_vec()
            }
            read => read?,
        };
        let pair = Ed25519KeyPair::from_der(&document, VERSION.to_owned())?;
        Ok(Self { server, pair })
    }

    /// Returns the answer to `GET /_matrix/key/v2/server`.
    pub(crate) fn published(&self, valid_until_ts: u64) -> Result<Vec<u8>, Error> {
        let key = Base64::<Standard, _>::new(self.pair.public_key()).encode();
        let mut document: CanonicalJsonObject = serde_json::from_value(json!({
            "server_name": self.server, "valid_until_ts": valid_until_ts,
            "verify_keys": { KEY_ID: { "key": key } }, "old_verify_keys": {},
        }))?;
        sign_json(self.server.as_str(), &self.pair, &mut document)?;
        Ok(serde_json::to_vec(&document)?)
    }
}

/// How the engine has our events signed. The key could as well be where no process can read it.
impl Signer for OurKey {
    fn server(&self) -> &ServerName {
        &self.server
    }

    fn key_id(&self) -> &str {
        KEY_ID
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.pair.sign(message).as_bytes().try_into().expect("an ed25519 signature has 64 bytes")
    }
}

/// A server's keys.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) keys: PublicKeyMap,
    pub(crate) valid_until_ts: u64,
    /// The server's answer, in which the keys are valid no longer than seven days from now: for the engine, which
    /// takes that time as it is.
    pub(crate) document: Vec<u8>,
}

/// Reads a server's answer to `GET /_matrix/key/v2/server`, which it must have signed itself.
pub(crate) fn published_by(server: &ServerName, body: &[u8], now_ms: u64) -> Result<Published, Error> {
    let published: ServerSigningKeys = serde_json::from_slice(body)?;
    if published.server_name != server || published.verify_keys.len() > KEYS_MAX {
        return Err(format!("{server} publishes the keys of another server, or more than {KEYS_MAX}").into());
    }
    let keys = published.verify_keys.into_iter().map(|(key_id, key)| (key_id.to_string(), key.key)).collect();
    let keys = PublicKeyMap::from([(server.to_string(), keys)]);
    let mut document: CanonicalJsonObject = serde_json::from_slice(body)?;
    // `verify_json` checks the signatures of all who have signed, even if nobody has: whether the server has is asked
    // here, and who else has does not matter.
    let own = published.signatures.get(server).ok_or_else(|| format!("{server} has not signed its keys"))?;
    document.insert("signatures".to_owned(), to_canonical_value(json!({ server.as_str(): own }))?);
    verify_json(&keys, &document)?;

    let valid_until_ts = u64::from(published.valid_until_ts.get()).min(now_ms + VALID_MS_MAX);
    let valid_until = CanonicalJsonValue::Integer(UInt::new_saturating(valid_until_ts).into());
    document.insert("valid_until_ts".to_owned(), valid_until);
    Ok(Published { keys, valid_until_ts, document: serde_json::to_vec(&document)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(server: &str) -> OurKey {
        let dir = tempfile::tempdir().expect("there is room for temporary files");
        OurKey::load(server.try_into().expect("a server name"), dir.path()).expect("the directory can be used")
    }

    #[test]
    fn published_keys_are_signed_by_their_server_whoever_else_signs() {
        let [us, other] = ["us.example", "other.example"].map(key);
        let signed: CanonicalJsonObject =
            serde_json::from_slice(&us.published(1_000).expect("it can be signed")).expect("it is JSON");
        let read = |document: &CanonicalJsonObject| {
            published_by(&us.server, &serde_json::to_vec(document).expect("JSON can be written"), 0)
        };
        let published = read(&signed).expect("it is signed");
        assert_eq!((published.valid_until_ts, published.keys.len()), (1_000, 1));

        let mut by_both = signed.clone();
        sign_json(other.server.as_str(), &other.pair, &mut by_both).expect("it can be signed");
        read(&by_both).expect("it is signed by its server, too");

        let signatures = |signatures| {
            let mut document = signed.clone();
            document.insert("signatures".to_owned(), signatures);
            document
        };
        let nobody = CanonicalJsonObject::new();
        read(&signatures(nobody.clone().into())).expect_err("nobody has signed");
        let empty = CanonicalJsonObject::from([(us.server.to_string(), nobody.into())]);
        read(&signatures(empty.into())).expect_err("its entry is empty");
        let mut by_another = signed.clone();
        by_another.remove("signatures");
        read(&by_another).expect_err("there are no signatures");
        sign_json(other.server.as_str(), &other.pair, &mut by_another).expect("it can be signed");
        read(&by_another).expect_err("only another has signed");
        let mut changed = signed.clone();
        changed.insert("valid_until_ts".to_owned(), CanonicalJsonValue::Integer(2_000_u32.into()));
        read(&changed).expect_err("that was not signed");
    }

    #[test]
    fn keys_are_believed_for_seven_days() {
        let us = key("us.example");
        let body = us.published(u64::MAX >> 12).expect("it can be signed");
        let published = published_by(&us.server, &body, 5).expect("it is signed");
        assert_eq!(published.valid_until_ts, VALID_MS_MAX + 5);
        let document: ServerSigningKeys = serde_json::from_slice(&published.document).expect("keys");
        assert_eq!(u64::from(document.valid_until_ts.get()), VALID_MS_MAX + 5);
    }

    #[test]
    fn our_key_is_kept_and_nobody_else_reads_it() {
        let dir = tempfile::tempdir().expect("there is room for temporary files");
        let us = || OurKey::load("us.example".try_into().expect("a server name"), dir.path());
        let made = us().expect("the directory can be used");
        assert_eq!(made.pair.public_key(), us().expect("it was written").pair.public_key());
        assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(dir.path().join("signing.key")).expect("it is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
