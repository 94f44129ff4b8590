//! Replays the seeds of every target, and their small mutations, on stable Rust.

use std::{
    fs,
    path::{Path, PathBuf},
};

use gibbous_fuzz::{TARGETS, Target};

/// Every prefix of a seed and every change of one byte is tried, up to so many of each.
const MUTATIONS_MAX: usize = 2048;

#[test]
fn auth_differential_holds_on_its_seeds() {
    replay("auth_differential");
}

#[test]
fn key_order_holds_on_its_seeds() {
    replay("key_order");
}

#[test]
fn pdu_parse_holds_on_its_seeds() {
    replay("pdu_parse");
}

#[test]
fn recording_parse_holds_on_its_seeds() {
    replay("recording_parse");
}

#[test]
fn resolve_differential_holds_on_its_seeds() {
    replay("resolve_differential");
}

#[test]
fn resync_answers_holds_on_its_seeds() {
    replay("resync_answers");
}

#[test]
fn room_history_holds_on_its_seeds() {
    replay("room_history");
}

#[test]
fn send_join_response_holds_on_its_seeds() {
    replay("send_join_response");
}

#[test]
fn state_group_ops_holds_on_its_seeds() {
    replay("state_group_ops");
}

#[test]
fn store_ops_holds_on_its_seeds() {
    replay("store_ops");
}

#[test]
fn wire_decode_holds_on_its_seeds() {
    replay("wire_decode");
}

#[test]
fn every_folder_of_seeds_has_a_target() {
    let mut folders: Vec<_> = list(&seeds()).map(|path| name(&path)).collect();
    folders.sort_unstable();
    assert_eq!(folders, TARGETS.map(|(name, _)| name));
}

fn replay(target: &str) {
    let &(_, body): &Target = TARGETS.iter().find(|(name, _)| *name == target).expect("the target is listed");
    let mut seeds: Vec<_> = list(&seeds().join(target)).collect();
    assert!(!seeds.is_empty());
    seeds.sort_unstable();
    for seed in seeds {
        let bytes = fs::read(&seed).expect("a seed can be read");
        // Shown if the body panics.
        println!("{}", seed.display());
        body(&bytes);
        let step = bytes.len().div_ceil(MUTATIONS_MAX).max(1);
        for at in (0..bytes.len()).step_by(step) {
            println!("cut at {at}");
            body(&bytes[..at]);
            println!("changed at {at}");
            let mut changed = bytes.clone();
            changed[at] = changed[at].wrapping_mul(5).wrapping_add(at as u8 | 1);
            body(&changed);
        }
    }
}

fn seeds() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")
}

fn list(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder can be read");
    entries.map(|entry| entry.expect("the folder can be read").path())
}

fn name(path: &Path) -> String {
    path.file_name().expect("an entry has a name").to_string_lossy().into_owned()
}
