//! What a store holds that a process has left.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use gibbous::{
    Backend, Config, Engine, Error, EventId, OwnedRoomId, OwnedServerName, RoomView, SledOptions, StateGroupId,
    gibbous_codec::exchange::{self, Record, RecordReader},
    gibbous_storage::{Store, check},
    replay::Storage,
};

use crate::{child::Said, powercut::files_below};

/// A database that is tortured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Database {
    Sled,
    #[cfg(feature = "fjall")]
    Fjall,
}

impl Database {
    pub(crate) const ALL: &[Self] = &[
        Self::Sled,
        #[cfg(feature = "fjall")]
        Self::Fjall,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            #[cfg(feature = "fjall")]
            Self::Fjall => "fjall",
        }
    }

    pub(crate) fn storage(self, dir: PathBuf) -> Storage {
        match self {
            Self::Sled => Storage::Sled { dir, options: SledOptions { cache_bytes: 16 << 20 } },
            #[cfg(feature = "fjall")]
            Self::Fjall => Storage::Fjall { dir, options: gibbous::FjallOptions { cache_bytes: 16 << 20 } },
        }
    }
}

/// The room of a recording, and the homeserver whose part is played.
#[derive(Debug)]
pub(crate) struct Subject {
    room_id: OwnedRoomId,
    our_server: OwnedServerName,
    /// Events that waited for keys and proved forged, as the unbroken replay shows.
    pub(crate) forged: BTreeSet<String>,
}

/// What has been acknowledged of a room, in all processes together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acknowledgements {
    pub(crate) kept: BTreeSet<String>,
    pub(crate) told: BTreeSet<String>,
    pub(crate) steps_done: u64,
}

impl Acknowledgements {
    pub(crate) fn note(&mut self, said: Said) {
        match said {
            Said::Kept(event_id) => _ = self.kept.insert(event_id),
            Said::Told(update) => _ = self.told.insert(update),
            Said::Steps(done) => self.steps_done = done,
            Said::Purging => {
                self.kept.clear();
                self.told.clear();
            }
            Said::Begins | Said::Compares | Said::Ends(_) => {}
        }
    }
}

/// A room as it stands: it is the same however often the engine died on the way.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    is_partial: bool,
    extremities: BTreeSet<String>,
    current_state: Option<StateGroupId>,
    /// What became of each event whose receipt came through.
    pub(crate) stages: BTreeMap<String, Option<String>>,
}

impl Standing {
    /// Tells whether a room stands as another does. A process may have died between storing an event and saying so:
    /// what became of that one is seen by extremities and state alone.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        let is_alike = |(event_id, stage): (&String, &Option<String>)| other.stages.get(event_id) == Some(stage);
        self.is_partial == other.is_partial
            && self.extremities == other.extremities
            && self.current_state == other.current_state
            && self.stages.iter().all(is_alike)
    }
}

impl Subject {
    pub(crate) fn of(recording: &Path) -> Self {
        let input = exchange::open(recording.to_str().expect("the path is text")).expect("the recording is there");
        match RecordReader::new(input).next().map(|line| line.expect("the recording can be read").1) {
            Some(Record::Room { room_id, our_server, .. }) => Self { room_id, our_server, forged: BTreeSet::new() },
            other => panic!("a recording begins with its room: {other:?}"),
        }
    }

    /// Looks whether a store is whole and everything is in it that was acknowledged, and returns the room as it stands.
    ///
    /// It looks at a copy: a look recovers the store, and that is for the next process to do, which may die of it.
    ///
    /// # Errors
    ///
    /// What was found.
    pub(crate) fn look(
        &self,
        database: Database,
        dir: &Path,
        acknowledged: &Acknowledgements,
    ) -> Result<Standing, String> {
        let copy = tempfile::tempdir().expect("a temporary directory can be made");
        copy_dir(dir, copy.path()).expect("the store can be copied");
        let backend = database.storage(copy.path().to_owned()).open();
        self.look_at(backend.map_err(|error| format!("it does not open: {error}"))?, acknowledged)
    }

    /// Does the same of a store that a look does not change.
    ///
    /// # Errors
    ///
    /// What was found.
    pub(crate) fn look_at(
        &self,
        backend: Arc<dyn Backend>,
        acknowledged: &Acknowledgements,
    ) -> Result<Standing, String> {
        let report = Store::open(backend.clone()).and_then(|store| check(&store));
        let report = report.map_err(|error| format!("it cannot be checked: {error}"))?;
        if let Some(finding) = report.findings.first() {
            return Err(format!("check: {} findings, the first: {finding}", report.findings.len()));
        }
        let engine = Engine::open(backend, Config::new(self.our_server.clone()), 0);
        let engine = engine.map_err(|error| format!("the engine does not open: {error}"))?;
        self.compare(&engine, acknowledged)
    }

    fn compare(&self, engine: &Engine, acknowledged: &Acknowledgements) -> Result<Standing, String> {
        let failed = |error: Error| error.to_string();
        let Some(room) = engine.room(&self.room_id).map_err(failed)? else {
            let nothing = acknowledged.kept.is_empty() && acknowledged.told.is_empty();
            return if nothing { Ok(Standing::default()) } else { Err("lost: the room".to_owned()) };
        };
        let told = engine.updates_since(&self.room_id, None, usize::MAX).map_err(failed)?;
        let told: BTreeSet<_> = told.iter().map(|update| format!("{update:?}")).collect();
        if let Some(lost) = acknowledged.told.difference(&told).next() {
            let count = acknowledged.told.difference(&told).count();
            return Err(format!("lost: {count} changes that were told of, the first: {lost}"));
        }
        let stages = acknowledged.kept.iter().map(|event_id| Ok((event_id.clone(), stage(&room, event_id)?)));
        let stages: BTreeMap<_, _> = stages.collect::<Result<_, String>>()?;
        let is_lost = |(event_id, stage): &(&String, &Option<_>)| stage.is_none() && !self.forged.contains(*event_id);
        if let Some((lost, _)) = stages.iter().find(is_lost) {
            return Err(format!("lost: {lost}"));
        }
        Ok(Standing {
            is_partial: room.is_partial(),
            extremities: room.forward_extremities().iter().map(ToString::to_string).collect(),
            current_state: Some(room.current_state_id()),
            stages,
        })
    }
}

fn stage(room: &RoomView, event_id: &str) -> Result<Option<String>, String> {
    let id = <&EventId>::try_from(event_id).expect("it was an event ID when it was said");
    let event = room.event(id).map_err(|error| format!("{event_id}: {error}"))?;
    Ok(event.map(|event| format!("{:?}", event.stage)))
}

pub(crate) fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    for file in files_below(from)? {
        let copy = to.join(file.strip_prefix(from).expect("it is below"));
        fs::create_dir_all(copy.parent().expect("it is a file in a directory"))?;
        fs::copy(file, copy)?;
    }
    Ok(())
}
