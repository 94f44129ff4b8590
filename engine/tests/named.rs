//! The scripts by which faster joins are known to work, and what the pages say is shown by a test: each has one of its
//! name.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Scripts of which only the host's work is left: messages to devices and signing keys ask the engine for nothing.
const OF_THE_HOST_ALONE: [u32; 2] = [8, 11];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Adds the names of the tests in the files of a directory.
fn tests_in(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("the directory can be read") {
        let path = entry.expect("the directory can be read").path();
        if path.is_dir() {
            tests_in(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("the file can be read");
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                let name = line.strip_prefix("fn ").and_then(|line| line.split_once('(')).map(|(name, _)| name);
                match name {
                    Some(name) if is_test => {
                        names.insert(name.to_owned());
                        is_test = false;
                    }
                    Some(_) => is_test = false,
                    None => is_test |= line == "#[test]",
                }
            }
        }
    }
}

fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for dir in ["engine/tests", "engine/src", "codec/src", "codec/tests", "storage/tests"] {
        tests_in(&root().join(dir), &mut names);
    }
    names
}

#[test]
fn every_script_has_a_test_of_its_name() {
    let mut found = BTreeSet::new();
    for name in tests() {
        let parts =
            name.split('_').map_while(|part| part.strip_prefix(['s', 'x', 'f']).map(|digits| (&part[..1], digits)));
        for (kind, digits) in parts {
            found.extend(digits.parse::<u32>().ok().map(|number| (kind.to_owned(), number)));
        }
    }
    let scripts = (1..=62).filter(|number| !OF_THE_HOST_ALONE.contains(number)).map(|number| ("s".to_owned(), number));
    let beyond = (1..=14).map(|number| ("x".to_owned(), number));
    let missing: Vec<_> =
        scripts.chain(beyond).chain([("f".to_owned(), 0)]).filter(|script| !found.contains(script)).collect();
    assert_eq!(missing, []);
}

/// Asserts that the last cell of every row of a table names tests that are there. Returns how many rows there are.
fn rows_that_name_tests(table: &str) -> usize {
    let tests = tests();
    let mut rows = 0;
    // A row without a text in its last cell is a heading.
    for row in table.lines().skip(2).filter(|row| !row.ends_with("| |")) {
        let shown_by = row.trim_end_matches('|').rsplit('|').next().expect("a row has cells");
        let named: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "{row}");
        for name in named {
            assert!(tests.contains(name), "{name} is no test");
        }
        rows += 1;
    }
    rows
}

/// Returns the table of a page that begins with a heading, with that heading.
fn table<'t>(page: &'t str, heading: &str) -> &'t str {
    let at = page.find(heading).expect("the table is there");
    let table = &page[at..];
    table.split_once("\n\n").map_or(table, |(table, _)| table)
}

#[test]
fn every_test_that_the_architecture_names_is_there() {
    let page = fs::read_to_string(root().join("engine/ARCHITECTURE.md")).expect("the file can be read");
    let rows = rows_that_name_tests(table(&page, "| # | asked for |"));
    assert!(rows >= 51, "{rows} rows");
}

#[test]
fn every_test_that_shows_a_bound_is_there() {
    let page = fs::read_to_string(root().join("engine/ARCHITECTURE.md")).expect("the file can be read");
    let rows = rows_that_name_tests(table(&page, "| bound | beyond it |"));
    assert!(rows >= 33, "{rows} rows");
}

#[test]
fn every_test_that_the_catalogue_of_lies_names_is_there() {
    let page = fs::read_to_string(root().join("engine/HOSTILE.md")).expect("the file can be read");
    let rows = rows_that_name_tests(table(&page, "| lie | what comes of it |"));
    assert!(rows >= 55, "{rows} rows");
}
