//! The guide for hosts leaves out no change: each has its row.

const GUIDE: &str = include_str!("../EMBEDDING.md");
const CODE: &str = include_str!("../src/notify.rs");

/// Returns the names of the variants of [`gibbous::Change`].
fn variants() -> Vec<&'static str> {
    let (_, body) = CODE.split_once("pub enum Change {\n").expect("the enum stands there");
    let (body, _) = body.split_once("\n}\n").expect("it ends");
    let names = body.lines().filter_map(|line| line.strip_prefix("    "));
    let names = names.filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()));
    names.map(|line| line.trim_end_matches([' ', '{', ','])).collect()
}

#[test]
fn the_guide_says_of_every_change_what_a_host_does() {
    let (_, table) = GUIDE.split_once("| `Change` |").expect("the table stands there");
    let (table, _) = table.split_once("\n\n").expect("it ends");
    let cells = table.lines().skip(2).filter_map(|row| row.split('|').nth(1));
    let mut told: Vec<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let mut variants = variants();
    told.sort_unstable();
    variants.sort_unstable();
    assert_eq!(told, variants);
}
