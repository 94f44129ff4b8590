//! Keys of servers, and the one rule by which a signature holds.

use ed25519_dalek::{Signature, Verifier};

use crate::hash::decode_base64;

/// The order of the group, L = 2²⁵² + 27742317777372353535851937790883648493, little-endian.
const GROUP_ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// The canonical encodings of the eight points of small order, without the bit of their sign.
#[rustfmt::skip]
const SMALL_ORDERS: [[u8; 32]; 5] = [
    // Order 4, 1 and 2: y is 0, 1 and -1.
    [0; 32],
    [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
    ],
    // Order 8.
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
        0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
        0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
];

/// A server's public ed25519 key, and until when it is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyKey {
    key: ed25519_dalek::VerifyingKey,
    valid_until_ts: u64,
}

/// Why something is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is not base64.
    #[error("key: expected base64, found something else")]
    NotBase64,
    /// It has the wrong length.
    #[error("key: expected 32 bytes, found {found}")]
    Length {
        /// The length found.
        found: usize,
    },
    /// The bytes are no point of the curve, or one in another form than the canonical.
    #[error("key: expected the canonical encoding of a point, found another")]
    NotCanonical,
    /// The point has a small order: a signature by it can hold for any message.
    #[error("key: expected a point of large order, found one of small order")]
    SmallOrder,
}

impl VerifyKey {
    /// Takes a key as servers publish it, in base64.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if no signature by such a key could ever hold.
    pub fn from_base64(key: &str, valid_until_ts: u64) -> Result<Self, KeyError> {
        let bytes = decode_base64(key).ok_or(KeyError::NotBase64)?;
        let bytes = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| KeyError::Length { found: bytes.len() })?;
        Self::from_bytes(&bytes, valid_until_ts)
    }

    /// Takes a key as bytes.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if no signature by such a key could ever hold.
    pub fn from_bytes(bytes: &[u8; 32], valid_until_ts: u64) -> Result<Self, KeyError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::NotCanonical)?;
        // The point is encoded again, as the library takes other encodings too.
        if key.to_edwards().compress().to_bytes() != *bytes {
            return Err(KeyError::NotCanonical);
        }
        if key.is_weak() {
            return Err(KeyError::SmallOrder);
        }
        Ok(Self { key, valid_until_ts })
    }

    /// Returns the key as bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// Returns until when the key is valid, in milliseconds: `valid_until_ts`, or `expired_ts` of an old key.
    pub fn valid_until_ts(&self) -> u64 {
        self.valid_until_ts
    }

    /// Returns whether `signature` is one of `message` by this key, by the strict rule that libsodium has, and so
    /// Synapse: the key and R are canonical and not of small order, S is canonical, and `[S]B = R + [k]A` holds as it
    /// stands, not only times the cofactor.
    ///
    /// A laxer rule would take events that Synapse drops, and the rooms would part.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = Signature::from_slice(signature) else { return false };
        // S is checked here as well as in the library, where a feature that another crate may switch on turns its check
        // off. The library compares R with the canonical encoding of [S]B - [k]A, so that an R which it takes is canonical
        // and need not be decoded, as its `verify_strict` does, for an eighth of the work, to tell whether its order is
        // small; nor need the key, of which it is known.
        is_reduced(signature.s_bytes())
            && !is_of_small_order(signature.r_bytes())
            && self.key.verify(message, &signature).is_ok()
    }
}

/// Returns whether a canonical encoding is that of a point of small order.
fn is_of_small_order(point: &[u8; 32]) -> bool {
    let mut without_sign = *point;
    without_sign[31] &= 0x7f;
    SMALL_ORDERS.contains(&without_sign)
}

/// Returns whether the little-endian number is less than the group's order.
fn is_reduced(scalar: &[u8; 32]) -> bool {
    scalar.iter().rev().lt(GROUP_ORDER.iter().rev())
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::{EdwardsPoint, Scalar, constants::EIGHT_TORSION};
    use ed25519_dalek::VerifyingKey;
    use sha2::{Digest, Sha512};

    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        let byte = |i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex");
        std::array::from_fn(byte)
    }

    /// Checks one signature by the strict rule, and by the lax one that ed25519-dalek's `verify` has.
    #[track_caller]
    fn check(key: &str, message: &str, signature: &str, strict: bool, lax: bool) {
        let (key, signature) = (bytes(key), bytes::<64>(signature));
        let holds = VerifyKey::from_bytes(&key, 0).is_ok_and(|key| key.verifies(message.as_bytes(), &signature));
        assert_eq!(holds, strict);
        let key = VerifyingKey::from_bytes(&key).expect("a point");
        assert_eq!(key.verify(message.as_bytes(), &Signature::from_bytes(&signature)).is_ok(), lax);
    }

    // The signatures were made for these tests, with the private scalar of the key and, where it says so, a point of
    // small order mixed in. What `strict` expects is what libsodium said, of the versions that PyNaCl 1.5.0 and 1.6.2
    // carry.
    const KEY: &str = "9195ae908897a5dfd53900ed82f8050d1557da82add6fd2d4de1ffa95c17ebcc";
    const MIXED: &str = "2b6f0cfdc9311147a0b861330c7ddbef862177f77a82bfe419255a06573fbf93";
    const ORDER_8: &str = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a";
    const IDENTITY: &str = "0100000000000000000000000000000000000000000000000000000000000000";
    const IDENTITY_NOT_CANONICAL: &str = "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f";
    const R: &str = "0c159df8441302c5df0727b9f4f5a15f08b7fd1db6deaf6a826723d7acfa6520";
    /// The discrete logarithm of R.
    const R_SCALAR: &str = "7cb4ffaf344292eb7dc50c79d0e59664d8d6a8c70ef2685435706fe95bd0070b";

    #[test]
    fn an_ordinary_signature_holds() {
        let s = "b1277afe2fc82db321476b833a61b98834901b6e37fd2d8d8d69cc8ce6cc8f08";
        check(KEY, "gibbous", &format!("{R}{s}"), true, true);
        check(KEY, "gibbouS", &format!("{R}{s}"), false, false);
        let key = VerifyKey::from_bytes(&bytes(KEY), 0).expect("a key");
        let signature = bytes::<64>(&format!("{R}{s}"));
        assert!(key.verifies(b"gibbous", &signature));
        assert!(!key.verifies(b"gibbous", &signature[..63]));
        assert!(!key.verifies(b"gibbous", &[&signature[..], &[0]].concat()));
        assert!(!key.verifies(b"gibbous", &[]));
    }

    #[test]
    fn a_signature_with_an_s_that_is_not_reduced_does_not_hold() {
        let s_plus_order = "9efb6f5b4a2b400bf8e36226195b989d34901b6e37fd2d8d8d69cc8ce6cc8f18";
        check(KEY, "gibbous", &format!("{R}{s_plus_order}"), false, false);
    }

    #[test]
    fn a_signature_with_an_r_of_small_order_does_not_hold() {
        let s = "023c92ebce1d9b9d716e15d395090b38f171d0f20eeeb462b9ebff4bbd321d0a";
        check(KEY, "gibbous", &format!("{IDENTITY}{s}"), false, true);
        let s = "830c8736aa19e90b3b8b351b3f263f8849e30821e14e82746e1b356f9cb5d40c";
        check(KEY, "gibbous", &format!("{IDENTITY_NOT_CANONICAL}{s}"), false, false);
        let identity_with_sign = "0100000000000000000000000000000000000000000000000000000000000080";
        let s = "2f850f8aa7d6a970a2a5b19cf2e9612c61b43248d86bc0e76f6e7f1162110504";
        check(KEY, "gibbous", &format!("{identity_with_sign}{s}"), false, false);
    }

    #[test]
    fn a_signature_that_holds_only_times_the_cofactor_does_not_hold() {
        let s = "d606a63a25331c5aa063e263cd3bc0638314e5d2ac41657ab30050ecc2602404";
        check(KEY, "gibbous", &format!("{ORDER_8}{s}"), false, false);
        let mixed_r = "f29110d90e2458771a017b20222575232def93447068af4fae08fd8de3ef22a1";
        let s = "f94f8814b2b44aa9502060b3d08cc26700a86f119f87aef7c2bcdc2d5fc1fc09";
        check(KEY, "gibbous", &format!("{mixed_r}{s}"), false, false);
        let s = "4f5ebf197d41995d5cdff21b7b1b0b68edf2818fed1f483c18cc6868f348330b";
        check(MIXED, "gibbous 1", &format!("{R}{s}"), false, false);
    }

    #[test]
    fn what_holds_is_what_the_library_holds_to_be_strictly_so() {
        let scalar = |of: &[u8]| Scalar::from_bytes_mod_order_wide(&Sha512::digest(of).into());
        let (secret, nonce) = (scalar(b"secret"), scalar(b"nonce"));
        let (mut held, mut lax_only) = (0, 0);
        // Every mixture of points of small order in the key and in R, with and without another part in R, sixteen messages
        // each.
        for nth in 0..8 * 8 * 2 * 16 {
            let (of_key, of_r) = (EIGHT_TORSION[nth % 8], EIGHT_TORSION[nth / 8 % 8]);
            let nonce = if nth / 64 % 2 == 0 { nonce } else { Scalar::ZERO };
            let message = nth.to_le_bytes();
            let key = (EdwardsPoint::mul_base(&secret) + of_key).compress().to_bytes();
            let r = (EdwardsPoint::mul_base(&nonce) + of_r).compress().to_bytes();
            let challenge = scalar(&[&r[..], &key[..], &message].concat());
            let signature = [r, (nonce + challenge * secret).to_bytes()].concat();
            let holds = VerifyKey::from_bytes(&key, 0).expect("a key").verifies(&message, &signature);
            let (key, signature) = (VerifyingKey::from_bytes(&key), Signature::from_slice(&signature));
            let (key, signature) = (key.expect("a key"), signature.expect("64 bytes"));
            assert_eq!(holds, key.verify_strict(&message, &signature).is_ok());
            held += u32::from(holds);
            lax_only += u32::from(!holds && key.verify(&message, &signature).is_ok());
        }
        // Of 1,024 each, an eighth fits the equation as it stands, by what is mixed in.
        assert!((64..200).contains(&held) && (64..200).contains(&lax_only), "{held} {lax_only}");
    }

    #[test]
    fn points_of_small_order_are_known_by_their_encoding() {
        for point in EIGHT_TORSION {
            assert!(is_of_small_order(&point.compress().to_bytes()));
        }
        assert!(!is_of_small_order(&bytes(KEY)) && !is_of_small_order(&bytes(R)) && !is_of_small_order(&bytes(MIXED)));
    }

    #[test]
    fn a_signature_by_a_key_with_a_part_of_small_order_may_hold() {
        let s = "f432990812eeea1bc8d0d8d2ab8e38a1b86119f5a4a25adf85a361ea91084f06";
        check(MIXED, "gibbous 0", &format!("{R}{s}"), true, true);
    }

    #[test]
    fn a_key_of_small_order_is_none_whatever_it_signs() {
        check(IDENTITY, "gibbous", &format!("{R}{R_SCALAR}"), false, true);
        check(IDENTITY, "anything else", &format!("{R}{R_SCALAR}"), false, true);
        check(IDENTITY_NOT_CANONICAL, "gibbous", &format!("{R}{R_SCALAR}"), false, true);
        check(ORDER_8, "gibbous 11", &format!("{R}{R_SCALAR}"), false, true);
        assert_eq!(VerifyKey::from_bytes(&bytes(IDENTITY), 0), Err(KeyError::SmallOrder));
        assert_eq!(VerifyKey::from_bytes(&bytes(ORDER_8), 0), Err(KeyError::SmallOrder));
    }

    #[test]
    fn a_key_has_one_encoding() {
        assert_eq!(VerifyKey::from_bytes(&bytes(IDENTITY_NOT_CANONICAL), 0), Err(KeyError::NotCanonical));
        // The point with y = 3, which is not of small order, and its other encoding with y = 3 + p.
        let (canonical, other) = (format!("03{}", "00".repeat(31)), format!("f0{}7f", "ff".repeat(30)));
        assert!(VerifyingKey::from_bytes(&bytes(&other)).is_ok());
        assert!(VerifyKey::from_bytes(&bytes(&canonical), 0).is_ok());
        assert_eq!(VerifyKey::from_bytes(&bytes(&other), 0), Err(KeyError::NotCanonical));
        // No point of the curve has y = 2.
        assert_eq!(VerifyKey::from_bytes(&bytes(&format!("02{}", "00".repeat(31))), 0), Err(KeyError::NotCanonical));
    }

    #[test]
    fn keys_are_read_from_base64() {
        let key = VerifyKey::from_base64("kZWukIiXpd/VOQDtgvgFDRVX2oKt1v0tTeH/qVwX68w", 7).expect("a key");
        assert_eq!((key.to_bytes(), key.valid_until_ts()), (bytes(KEY), 7));
        let padded = VerifyKey::from_base64("kZWukIiXpd_VOQDtgvgFDRVX2oKt1v0tTeH_qVwX68w=", 7);
        assert_eq!(padded, Ok(key));
        assert_eq!(VerifyKey::from_base64("", 0), Err(KeyError::Length { found: 0 }));
        assert_eq!(VerifyKey::from_base64("k!", 0), Err(KeyError::NotBase64));
    }
}
