//! The signing key of every server, made of a seed and the server's name.

use gibbous_codec::{LocalSigner, ServerName, SigningKey};
use ruma::serde::{Base64, base64::Standard};
use serde_json::json;

/// The ID of the one key that every server has.
pub const KEY_ID: &str = "ed25519:a_1";

/// In milliseconds: later than any event of a test.
const VALID_UNTIL_TS: u64 = 4_000_000_000_000;

/// The signing keys of all servers there may be.
#[derive(Clone, Copy, Debug)]
pub struct SeededKeys {
    seed: u64,
}

impl SeededKeys {
    /// Takes the seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Returns a server's key.
    pub fn key_of(&self, server: &ServerName) -> SigningKey {
        // FNV-1a over the name, then SplitMix64: the keys need to be different, not secret.
        let mut state = server.as_str().bytes().fold(0xcbf2_9ce4_8422_2325 ^ self.seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mut bytes = [0; 32];
        for chunk in bytes.chunks_exact_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
        }
        SigningKey::from_bytes(&bytes)
    }

    /// Returns who signs in a server's name.
    pub fn signer_of(&self, server: &ServerName) -> LocalSigner {
        LocalSigner::new(server.to_owned(), KEY_ID, self.key_of(server))
    }

    /// Returns the body of a server's answer to `GET /_matrix/key/v2/server`.
    pub fn answer_of(&self, server: &ServerName) -> String {
        let key = Base64::<Standard, _>::new(self.key_of(server).verifying_key().to_bytes());
        json!({
            "server_name": server,
            "verify_keys": { KEY_ID: { "key": key.encode() } },
            "old_verify_keys": {},
            "valid_until_ts": VALID_UNTIL_TS,
        })
        .to_string()
    }
}
