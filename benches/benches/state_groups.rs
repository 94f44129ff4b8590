//! State groups by the clock, for those who profile; what is promised of them are counts, in the figures.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use gibbous::gibbous_storage::state_group::{diff, entries, lookup, update};
use gibbous_benches::states::{States, member};

fn state_groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("state groups");
    for members in [1_000, 100_000] {
        let mut states = States::new(members).expect("nodes in memory can be read");
        let before = states.last;
        for _ in 0..10 {
            states.make_version().expect("nodes in memory can be read");
        }
        let after = states.last;
        group.bench_function(BenchmarkId::new("lookup", members), |bencher| {
            bencher.iter(|| lookup(&states.nodes, &after, &member(members / 2)));
        });
        group.bench_function(BenchmarkId::new("diff of ten keys", members), |bencher| {
            bencher.iter(|| diff(&states.nodes, &before, &after));
        });
        group.bench_function(BenchmarkId::new("page of a thousand entries", members), |bencher| {
            bencher.iter(|| entries(&states.nodes, &after, None, 1_000));
        });
        let change = states.change();
        group.bench_function(BenchmarkId::new("insert", members), |bencher| {
            bencher.iter(|| update(&mut states.nodes, &after, &[change]));
        });
        group.bench_function(BenchmarkId::new("bulk build", members), |bencher| bencher.iter(|| States::new(members)));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = state_groups
}
criterion_main!(benches);
