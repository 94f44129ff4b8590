//! State groups: any list of changes leaves in the trie what it leaves in a `BTreeMap`, under the same ID.

use std::{collections::BTreeMap, sync::Arc};

use gibbous_codec::{EventNum, NodeHash, Path, RoomVersionId, StateGroup};
use gibbous_storage::{
    NodeSink, NodeSource, StoreError,
    state_group::{Change, Entry, Node, diff, entries, lookup, update},
};

/// Operations in one input at most, each on up to 64 paths: enough for every depth.
const OPS_MAX: usize = 64;

type Held = (NodeHash, EventNum);
type Model = BTreeMap<Path, Held>;

/// Applies operations of four bytes: remove, set or commit, and on how many paths; which byte of them is not zero; its
/// value in the first of them; what is set there.
pub fn state_group_ops(bytes: &[u8]) {
    let mut nodes = Nodes::default();
    let (mut group, mut model) = (StateGroup::EMPTY, Model::new());
    let mut changes = Vec::new();
    for &[op, at, first, value] in bytes.as_chunks().0.iter().take(OPS_MAX) {
        let paths = (0..=op >> 2).map(|next| path(at, first.wrapping_add(next)));
        match op & 3 {
            0 => changes.extend(paths.map(|path| (path, None))),
            1 | 2 => changes.extend(paths.map(|path| (path, Some(held(path, value))))),
            _ => (group, model) = apply(&mut nodes, (group, model), &std::mem::take(&mut changes)),
        }
    }
    let (group, model) = apply(&mut nodes, (group, model), &changes);

    let all: Vec<_> = model.iter().map(|(path, held)| (*path, Some(*held))).collect();
    let built = update(&mut Nodes::default(), &StateGroup::EMPTY, &all).expect("nothing is read");
    assert_eq!(built, group, "the same content has the same group, however it came about");
    assert_eq!(built.id(&RoomVersionId::V12), group.id(&RoomVersionId::V12));
    let read = entries(&nodes, &group, None, usize::MAX).expect("all nodes are there");
    let expected: Vec<_> = model.iter().map(|(&path, &(hash, event))| Entry { path, hash, event }).collect();
    assert_eq!(read, expected);
}

/// Applies changes to both, and compares what the changed paths hold and where old and new differ.
fn apply(nodes: &mut Nodes, (old, old_model): (StateGroup, Model), changes: &[Change]) -> (StateGroup, Model) {
    let mut model = old_model.clone();
    for &(path, change) in changes {
        match change {
            Some(held) => model.insert(path, held),
            None => model.remove(&path),
        };
    }
    let group = update(nodes, &old, changes).expect("all nodes are there");
    assert_eq!(group == old, model == old_model, "the ID changes if and only if the content does");
    for (path, _) in changes {
        let found = lookup(nodes, &group, path).expect("all nodes are there");
        assert_eq!(found, event_at(&model, path));
    }
    let differences = diff(nodes, &old, &group).expect("all nodes are there");
    let differences: Vec<_> = differences.into_iter().map(|at| (at.path, at.a, at.b)).collect();
    let mut paths: Vec<_> = changes.iter().map(|(path, _)| *path).collect();
    paths.sort_unstable();
    paths.dedup();
    let expected = paths.into_iter().map(|path| (path, event_at(&old_model, &path), event_at(&model, &path)));
    assert_eq!(differences, expected.filter(|(_, a, b)| a != b).collect::<Vec<_>>());
    (group, model)
}

/// Returns a path of zeros but for one byte: other servers can choose state keys whose paths begin alike.
fn path(at: u8, byte: u8) -> Path {
    const PLACES: [usize; 4] = [0, 1, 14, 15];
    let mut path = [0; 16];
    path[PLACES[usize::from(at % 4)]] = byte;
    Path(path)
}

fn held(path: Path, value: u8) -> Held {
    let mut hash = NodeHash::ZERO;
    blake3::Hasher::new().update(&path.0).update(&[value]).finalize_xof().fill(&mut hash.0);
    (hash, EventNum(value.into()))
}

fn event_at(model: &Model, path: &Path) -> Option<EventNum> {
    model.get(path).map(|(_, event)| *event)
}

/// Nodes in memory, each of which has been through its bytes.
#[derive(Default)]
struct Nodes(BTreeMap<NodeHash, Arc<Node>>);

impl NodeSource for Nodes {
    fn node(&self, hash: &NodeHash) -> Result<Option<Arc<Node>>, StoreError> {
        self.0.node(hash)
    }
}

impl NodeSink for Nodes {
    fn put_node(&mut self, hash: NodeHash, node: Node) {
        let bytes = node.encode().expect("a node has a frame");
        assert_eq!(Node::decode(&bytes).as_ref(), Ok(&node));
        assert_eq!(node.hash(), hash);
        self.0.put_node(hash, node);
    }
}
