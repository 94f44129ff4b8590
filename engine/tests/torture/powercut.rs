//! Power cuts: a process runs with `powercut.c` preloaded, which keeps how to undo what it did not sync; the cut undoes
//! it.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use crate::Chance;

/// The size of the pages of which each may or may not have reached the disk.
const PAGE_BYTES: usize = 4096;

/// A preloaded library that takes note of what is not synced.
#[derive(Debug)]
pub(crate) struct Shim {
    library: PathBuf,
}

/// What of all that was not synced a power cut takes away.
#[derive(Debug)]
pub(crate) enum Taken<'a> {
    /// Everything: bytes, sizes and names.
    All,
    /// Every second page, as chance has it; all names stay.
    Pages(&'a mut Chance),
}

impl Shim {
    /// Compiles the library into a directory; `None` if there is no C compiler.
    pub(crate) fn compile(dir: &Path) -> Option<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture/powercut.c");
        let library = dir.join("powercut.so");
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).args(["-ldl", "-lpthread"]);
        match cc.status() {
            Ok(status) => assert!(status.success(), "powercut.c does not compile: {status}"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => panic!("cc: {error}"),
        }
        Some(Self { library })
    }

    /// Has a command run with the library preloaded.
    pub(crate) fn preload(&self, command: &mut Command, dir: &Path, undo: &Path) {
        command.env("LD_PRELOAD", &self.library).env("POWERCUT_DIR", dir).env("POWERCUT_UNDO", undo);
    }
}

/// Cuts the power: puts the files in `dir` back to what a disk would hold of them. Every process that used them is
/// dead.
pub(crate) fn cut(dir: &Path, undo: &Path, mut taken: Taken<'_>) -> io::Result<()> {
    let mut files = BTreeMap::new();
    for path in files_below(dir)?.into_iter().chain(files_below(undo)?) {
        files.insert(path.metadata()?.ino(), path);
    }
    let notes = files_below(undo)?;
    let name = |path: &Path| path.file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
    for note in &notes {
        let of = name(note).parse().ok().and_then(|inode: u64| files.get(&inode));
        if let Some(file) = of {
            undo_content(file, &fs::read(note)?, &mut taken)?;
        }
    }
    if matches!(taken, Taken::All) {
        for note in notes.iter().filter(|note| name(note).starts_with("names-")) {
            undo_names(&fs::read_to_string(note)?)?;
        }
    }
    for note in files_below(undo)? {
        fs::remove_file(note)?;
    }
    Ok(())
}

/// Returns the files below a directory.
pub(crate) fn files_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.append(&mut files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// What a write took the place of.
struct Replaced<'n> {
    offset: u64,
    /// The size of the file before.
    size: u64,
    bytes: &'n [u8],
}

/// Reads notes on a file's content. The last may have been cut short with the process: what it is of was not done.
fn replaced(mut notes: &[u8]) -> Vec<Replaced<'_>> {
    let mut all = Vec::new();
    while let Some((head, rest)) = notes.split_first_chunk::<24>() {
        let number = |nth: usize| u64::from_ne_bytes(std::array::from_fn(|byte| head[8 * nth + byte]));
        let Some((bytes, rest)) = rest.split_at_checked(number(2) as usize) else { break };
        all.push(Replaced { offset: number(0), size: number(1), bytes });
        notes = rest;
    }
    all
}

fn undo_content(file: &Path, notes: &[u8], taken: &mut Taken<'_>) -> io::Result<()> {
    let all = replaced(notes);
    let Some(first) = all.first() else { return Ok(()) };
    let written = fs::read(file)?;
    let mut synced = written.clone();
    for Replaced { offset, size, bytes } in all.iter().rev() {
        synced.resize(*size as usize, 0);
        if !bytes.is_empty() {
            synced[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
    }
    assert_eq!(synced.len() as u64, first.size, "{}", file.display());
    let kept = match taken {
        Taken::All => synced,
        Taken::Pages(chance) => mixed(&synced, &written, chance),
    };
    let file = OpenOptions::new().write(true).open(file)?;
    file.write_all_at(&kept, 0)?;
    file.set_len(kept.len() as u64)
}

/// Takes each page that differs from the one or the other. A page behind the end of the synced file brings its size
/// along.
fn mixed(synced: &[u8], written: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut kept = synced.to_vec();
    if written.len() < synced.len() && chance.below(2) == 0 {
        kept.truncate(written.len());
    }
    for (nth, page) in written.chunks(PAGE_BYTES).enumerate() {
        let at = nth * PAGE_BYTES;
        if synced.get(at..at + page.len()) != Some(page) && chance.below(2) == 0 {
            kept.resize(kept.len().max(at + page.len()), 0);
            kept[at..][..page.len()].copy_from_slice(page);
        }
    }
    kept
}

/// Undoes what was done to the names in a directory, the last first.
fn undo_names(notes: &str) -> io::Result<()> {
    for line in notes.lines().rev() {
        let [kind, inode, path, from, stash] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
        let named = fs::symlink_metadata(path).ok();
        match kind {
            "c" if named.as_ref().is_some_and(fs::Metadata::is_dir) => fs::remove_dir_all(path)?,
            "c" if named.is_some() => fs::remove_file(path)?,
            "r" if named.is_some_and(|named| named.ino().to_string() == inode) => fs::rename(path, from)?,
            _ => {}
        }
        // Where the name of the directory was not synced either, what was in it is lost with it.
        let has_place = Path::new(path).parent().is_some_and(Path::exists);
        if stash != "-" && has_place && !Path::new(path).exists() {
            fs::rename(stash, path)?;
        }
    }
    Ok(())
}
