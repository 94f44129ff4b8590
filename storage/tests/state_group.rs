//! State groups against a plain ordered map and against the written hash rule.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use gibbous_codec::{
    EventNum, Kind, NodeHash, Path, RoomVersionId, StateKey, encode_bytes, inner_hash, leaf_hash, path,
};
use gibbous_storage::{
    NodeSink, NodeSource, StateGroup, StoreError,
    state_group::{Change, Difference, Entry, LEAF_MAX, Node, diff, entries, lookup, update},
};
use proptest::{collection::vec, prelude::*};

/// The reference: what a state holds at each path.
type Model = BTreeMap<Path, (NodeHash, EventNum)>;

/// Nodes in memory that tell what was done with them.
#[derive(Default)]
struct Nodes {
    nodes: BTreeMap<NodeHash, Arc<Node>>,
    puts: Vec<NodeHash>,
    reads: Cell<usize>,
}

impl NodeSource for Nodes {
    fn node(&self, hash: &NodeHash) -> Result<Option<Arc<Node>>, StoreError> {
        self.reads.set(self.reads.get() + 1);
        self.nodes.node(hash)
    }
}

impl NodeSink for Nodes {
    fn put_node(&mut self, hash: NodeHash, node: Node) {
        // Every node goes through its bytes, as it does in a store.
        let bytes = node.encode().expect("a node has a frame");
        assert_eq!(Node::decode(&bytes), Ok(node.clone()));
        self.puts.push(hash);
        self.nodes.put_node(hash, node);
    }
}

impl Nodes {
    fn update(&mut self, group: &StateGroup, changes: &[Change]) -> StateGroup {
        self.puts.clear();
        self.reads.set(0);
        update(self, group, changes).expect("all nodes are there")
    }

    fn build(&mut self, model: &Model) -> StateGroup {
        let changes: Vec<_> = model.iter().map(|(path, held)| (*path, Some(*held))).collect();
        self.update(&StateGroup::EMPTY, &changes)
    }

    fn reachable(&self, group: &StateGroup) -> BTreeSet<NodeHash> {
        let mut found = BTreeSet::new();
        let mut next: Vec<_> = (!group.is_empty()).then_some(group.root).into_iter().collect();
        while let Some(hash) = next.pop() {
            let node = &self.nodes[&hash];
            assert_eq!(node.hash(), hash, "a node stands under its hash");
            if let Node::Inner(inner) = &**node {
                next.extend(inner.children().iter().map(|child| child.hash));
            }
            found.insert(hash);
        }
        found
    }
}

/// The entry that a value makes at a path. Its hash is told by both, its number by the value alone.
fn held(path: Path, value: u8) -> (NodeHash, EventNum) {
    (hash_over(&[&path.0, &[value]]), EventNum(value.into()))
}

fn hash_over(parts: &[&[u8]]) -> NodeHash {
    let mut hash = NodeHash::ZERO;
    blake3::Hasher::new().update(&parts.concat()).finalize_xof().fill(&mut hash.0);
    hash
}

/// The root hash once more, from the written rule alone.
fn root_by_the_rule(entries: &[(Path, NodeHash)], depth: usize) -> NodeHash {
    if entries.len() <= LEAF_MAX {
        return leaf_hash(entries.iter().map(|(_, hash)| *hash));
    }
    let at = |digit: u8| -> Vec<_> { entries.iter().filter(|(path, _)| path.digit(depth) == digit).copied().collect() };
    let children: Vec<_> = (0..8).map(|digit| (digit, at(digit))).filter(|(_, below)| !below.is_empty()).collect();
    let bitmap = children.iter().fold(0, |bitmap, (digit, _)| bitmap | 1 << digit);
    inner_hash(bitmap, children.iter().map(|(_, below)| root_by_the_rule(below, depth + 1)))
}

/// Checks everything that can be asked of a state against the model.
fn check(nodes: &Nodes, group: &StateGroup, model: &Model) {
    let by_path: Vec<_> = model.iter().map(|(path, (hash, _))| (*path, *hash)).collect();
    assert_eq!(group.count, model.len() as u64);
    assert_eq!(group.root, if model.is_empty() { NodeHash::ZERO } else { root_by_the_rule(&by_path, 0) });
    let expected: Vec<_> = model.iter().map(|(&path, &(hash, event))| Entry { path, hash, event }).collect();
    assert_eq!(entries(nodes, group, None, usize::MAX).expect("all nodes are there"), expected);
    for (path, (_, event)) in model {
        assert_eq!(lookup(nodes, group, path).expect("all nodes are there"), Some(*event));
    }
}

fn difference(a: &Model, b: &Model) -> Vec<Difference> {
    let paths: BTreeSet<_> = a.keys().chain(b.keys()).copied().collect();
    let differs = |path: &Path| a.get(path).map(|held| held.0) != b.get(path).map(|held| held.0);
    let event = |model: &Model, path| model.get(&path).map(|held| held.1);
    let differing = paths.into_iter().filter(differs);
    differing.map(|path| Difference { path, a: event(a, path), b: event(b, path) }).collect()
}

fn apply(model: &mut Model, changes: &[Change]) {
    for (path, change) in changes {
        match change {
            Some(held) => model.insert(*path, *held),
            None => model.remove(path),
        };
    }
}

/// Paths as a hash gives them, and paths as an attacker would like them: the same for a long way.
fn any_path() -> impl Strategy<Value = Path> {
    let spread = (0..=255_u8).prop_map(|seed| Path(hash_over(&[&[seed]]).0));
    let prefixed = (prop_oneof![Just(0_usize), Just(5), Just(14), Just(15)], 0..=255_u8, 0..4_u8);
    let prefixed = prefixed.prop_map(|(same, byte, last)| {
        let mut path = Path([0xa7; 16]);
        path.0[same] = byte;
        path.0[15] ^= last << 2;
        path
    });
    prop_oneof![spread, prefixed]
}

fn any_changes(removed: u32, len: usize) -> impl Strategy<Value = Vec<Change>> {
    let value = prop_oneof![3 => (0..3_u8).prop_map(Some), removed => Just(None)];
    let change = (any_path(), value).prop_map(|(path, value)| (path, value.map(|value| held(path, value))));
    vec(change, 0..len)
}

/// Steps that fill a state and steps that empty it again.
fn any_steps() -> impl Strategy<Value = Vec<Vec<Change>>> {
    vec(prop_oneof![any_changes(1, 400), any_changes(12, 400), any_changes(3, 6)], 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn state_is_the_map_it_was_made_of(steps in any_steps()) {
        let (mut nodes, mut group, mut model) = (Nodes::default(), StateGroup::EMPTY, Model::new());
        for changes in steps {
            let old = nodes.reachable(&group);
            let (former, former_model) = (group, model.clone());
            group = nodes.update(&former, &changes);
            apply(&mut model, &changes);
            check(&nodes, &group, &model);
            check(&nodes, &former, &former_model);

            // Exactly the new nodes were put, each once; only a leaf may have been there, deeper down.
            let new = nodes.reachable(&group);
            let puts: BTreeSet<_> = nodes.puts.iter().copied().collect();
            prop_assert_eq!(puts.len(), nodes.puts.len());
            prop_assert!(puts.is_subset(&new));
            prop_assert!(new.difference(&old).all(|hash| puts.contains(hash)));
            let again: Vec<_> = puts.intersection(&old).collect();
            prop_assert!(again.iter().all(|hash| matches!(&*nodes.nodes[hash], Node::Leaf(_))));

            let found = diff(&nodes, &former, &group).expect("all nodes are there");
            prop_assert_eq!(found, difference(&former_model, &model));
        }
    }

    #[test]
    fn order_and_portions_do_not_show(changes in any_changes(2, 400), portion in 1..50_usize) {
        let mut model = Model::new();
        apply(&mut model, &changes);
        let mut nodes = Nodes::default();
        let bulk = nodes.build(&model);
        let portions = changes.chunks(portion).fold(StateGroup::EMPTY, |group, some| nodes.update(&group, some));
        prop_assert_eq!(portions, bulk);
        let backwards = model.iter().rev();
        let backwards = backwards.fold(StateGroup::EMPTY, |group, (path, held)| nodes.update(&group, &[(*path, Some(*held))]));
        prop_assert_eq!(backwards, bulk);
    }

    #[test]
    fn ids_are_equal_exactly_if_contents_are(
        common in any_changes(1, 300),
        one in any_changes(2, 3),
        other in any_changes(2, 3),
    ) {
        let mut nodes = Nodes::default();
        let mut build = |changes: &[Change]| {
            let mut model = Model::new();
            apply(&mut model, &common);
            apply(&mut model, changes);
            (nodes.build(&model).id(&RoomVersionId::V10), model)
        };
        let ((id, model), (other_id, other_model)) = (build(&one), build(&other));
        prop_assert_eq!(id == other_id, model == other_model);
    }

    #[test]
    fn difference_of_unrelated_states_is_found(a in any_changes(1, 300), b in any_changes(1, 300)) {
        let (mut nodes, mut model_a, mut model_b) = (Nodes::default(), Model::new(), Model::new());
        apply(&mut model_a, &a);
        apply(&mut model_b, &b);
        let (a, b) = (nodes.build(&model_a), nodes.build(&model_b));
        prop_assert_eq!(diff(&nodes, &a, &b).expect("all nodes are there"), difference(&model_a, &model_b));
    }

    #[test]
    fn pages_join_to_the_whole(changes in any_changes(1, 400), limit in 1..60_usize, start in any_path()) {
        let (mut nodes, mut model) = (Nodes::default(), Model::new());
        apply(&mut model, &changes);
        let group = nodes.build(&model);
        let page = |after, limit| entries(&nodes, &group, after, limit).expect("all nodes are there");
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let some = page(after, limit);
            found.extend_from_slice(&some);
            if some.len() < limit {
                break;
            }
            after = some.last().map(|entry| entry.path);
        }
        prop_assert_eq!(found, page(None, usize::MAX));
        let behind: Vec<_> = model.keys().filter(|path| **path > start).copied().collect();
        let page: Vec<_> = page(Some(start), usize::MAX).iter().map(|entry| entry.path).collect();
        prop_assert_eq!(page, behind);
    }

    #[test]
    fn decoding_arbitrary_bytes_never_panics(tag in 0..3_u8, payload in vec(any::<u8>(), 0..200)) {
        prop_assert!(Node::decode(&payload).is_err());
        let framed = encode_bytes(Kind::Node, 0, &[&[tag], &payload[..]].concat()).expect("the payload is short");
        if let Ok(node) = Node::decode(&framed) {
            prop_assert_eq!(node.encode(), Ok(framed));
        }
    }
}

/// Realistic state: one create event and many members.
fn members(count: usize) -> Vec<(Path, u64)> {
    (0..count as u64)
        .map(|number| (path(&StateKey::new("m.room.member", format!("@user{number}:hs"))), number))
        .collect()
}

fn hash_of(path: &Path, number: u64) -> NodeHash {
    hash_over(&[&path.0, &number.to_be_bytes()])
}

fn joined((path, number): (Path, u64)) -> Change {
    (path, Some((hash_of(&path, number), EventNum(number))))
}

#[test]
fn cost_follows_change_not_size() {
    let mut nodes = Nodes::default();
    let changes: Vec<_> = members(20_000).into_iter().map(joined).collect();
    let group = nodes.update(&StateGroup::EMPTY, &changes);
    assert_eq!(nodes.reads.get(), 0, "nothing is read to build a state");
    assert_eq!(nodes.puts.len(), nodes.reachable(&group).len(), "a bulk build puts each node once");

    let (member, _) = members(1)[0];
    let next = nodes.update(&group, &[joined((member, 1_000_000))]);
    assert!(nodes.puts.len() <= 6, "{} nodes put for one change", nodes.puts.len());
    assert!(nodes.reads.get() <= 6, "{} nodes read for one change", nodes.reads.get());
    let bytes: usize = nodes.puts.iter().map(|hash| nodes.nodes[hash].encode().map_or(0, |bytes| bytes.len())).sum();
    assert!(bytes <= 1_200, "{bytes} bytes put for one change");

    nodes.reads.set(0);
    assert_eq!(lookup(&nodes, &next, &member).expect("all nodes are there"), Some(EventNum(1_000_000)));
    assert!(nodes.reads.get() <= 6, "{} nodes read for one lookup", nodes.reads.get());

    nodes.reads.set(0);
    let found = diff(&nodes, &group, &next).expect("all nodes are there");
    assert_eq!(found, [Difference { path: member, a: Some(EventNum(0)), b: Some(EventNum(1_000_000)) }]);
    assert!(nodes.reads.get() <= 12, "{} nodes read to compare neighbours", nodes.reads.get());
}

#[test]
fn changes_that_change_nothing_put_nothing() {
    let mut nodes = Nodes::default();
    let all: Vec<_> = members(500).into_iter().map(joined).collect();
    let group = nodes.update(&StateGroup::EMPTY, &all);
    let stranger = path(&StateKey::new("m.room.name", ""));
    let renumbered = all[7].1.map(|(hash, _)| (hash, EventNum(999)));
    for changes in [&[], &all[..], &[(stranger, None)], &[(all[7].0, renumbered)]] {
        assert_eq!(nodes.update(&group, changes), group);
        assert!(nodes.puts.is_empty());
    }
    assert_eq!(nodes.update(&StateGroup::EMPTY, &[(stranger, None)]), StateGroup::EMPTY);
}

#[test]
fn last_of_several_changes_to_a_path_counts() {
    let mut nodes = Nodes::default();
    let (member, _) = members(1)[0];
    let changes = [joined((member, 1)), (member, None), joined((member, 2))];
    let group = nodes.update(&StateGroup::EMPTY, &changes);
    assert_eq!(group, nodes.update(&StateGroup::EMPTY, &changes[2..]));
    assert_eq!(nodes.update(&StateGroup::EMPTY, &changes[..2]), StateGroup::EMPTY);
}

#[test]
fn subtree_becomes_a_leaf_again_when_it_fits_one() {
    let mut nodes = Nodes::default();
    let all: Vec<_> = members(LEAF_MAX + 1).into_iter().map(joined).collect();
    let group = nodes.update(&StateGroup::EMPTY, &all);
    assert!(matches!(&*nodes.nodes[&group.root], Node::Inner(_)));
    let fewer = nodes.update(&group, &[(all[0].0, None)]);
    assert!(matches!(&*nodes.nodes[&fewer.root], Node::Leaf(entries) if entries.len() == LEAF_MAX));
    assert_eq!(nodes.puts, [fewer.root], "only the leaf is new");
    let none: Vec<_> = all.iter().map(|(path, _)| (*path, None)).collect();
    assert_eq!(nodes.update(&group, &none), StateGroup::EMPTY);
}

#[test]
fn equal_prefixes_go_no_deeper_than_the_path() {
    let mut nodes = Nodes::default();
    // Forty paths that part at the last byte only: forty inner nodes above one another.
    let paths: Vec<_> =
        (0..40_u8).map(|last| Path(std::array::from_fn(|at| if at == 15 { last << 2 } else { 0xab }))).collect();
    let changes: Vec<_> = paths.iter().map(|path| (*path, Some(held(*path, 1)))).collect();
    let group = nodes.update(&StateGroup::EMPTY, &changes);
    assert!((41..=46).contains(&nodes.puts.len()), "{} nodes put", nodes.puts.len());
    let model: Model = paths.iter().map(|path| (*path, held(*path, 1))).collect();
    check(&nodes, &group, &model);
    let fewer = nodes.update(&group, &paths[..40 - LEAF_MAX].iter().map(|path| (*path, None)).collect::<Vec<_>>());
    assert_eq!(nodes.puts, [fewer.root], "all of it becomes one leaf");
}

#[test]
fn missing_node_is_an_error_and_never_an_empty_state() {
    let mut nodes = Nodes::default();
    let all: Vec<_> = members(500).into_iter().map(joined).collect();
    let group = nodes.update(&StateGroup::EMPTY, &all);
    let Node::Inner(root) = &*nodes.nodes[&group.root] else { panic!("500 entries do not fit a leaf") };
    let lost = root.child(all[3].0.digit(0)).expect("the entry is below it").hash;
    nodes.nodes.remove(&lost);
    let is_missing = |error: Option<StoreError>| {
        assert!(matches!(&error, Some(StoreError::MissingNode { hash }) if *hash == lost), "{error:?}");
    };
    is_missing(lookup(&nodes, &group, &all[3].0).err());
    is_missing(entries(&nodes, &group, None, 500).err());
    is_missing(diff(&nodes, &StateGroup::EMPTY, &group).err());
    is_missing(update(&mut nodes, &group, &[(all[3].0, None)]).err());
}

#[test]
fn node_that_is_not_as_its_parent_says_is_an_error() {
    let mut nodes = Nodes::default();
    let all: Vec<_> = members(40).into_iter().map(joined).collect();
    let group = nodes.update(&StateGroup::EMPTY, &all);
    let wrong = StateGroup { count: 41, ..group };
    let error = lookup(&nodes, &wrong, &all[0].0).err();
    assert!(matches!(error, Some(StoreError::DamagedNode { .. })), "{error:?}");
}

#[test]
fn inner_node_that_leads_to_itself_ends_in_an_error() {
    let mut nodes = Nodes::default();
    let hash = NodeHash([7; 16]);
    let payload = [&[1, 0b10][..], &hash.0, &[100]].concat();
    let bytes = encode_bytes(Kind::Node, 0, &payload).expect("the payload is short");
    let node = Node::decode(&bytes).expect("the node is well-formed");
    nodes.nodes.insert(hash, Arc::new(node));
    let group = StateGroup { root: hash, count: 100 };
    // The digit 1 throughout.
    let at = Path(std::array::from_fn(|byte| [0x24, 0x92, 0x49][byte % 3]));
    let is_damaged =
        |error: Option<StoreError>| assert!(matches!(error, Some(StoreError::DamagedNode { .. })), "{error:?}");
    is_damaged(lookup(&nodes, &group, &at).err());
    is_damaged(entries(&nodes, &group, None, 1).err());
    is_damaged(diff(&nodes, &StateGroup::EMPTY, &group).err());
    is_damaged(update(&mut nodes, &group, &[(at, Some(held(at, 1)))]).err());
}
