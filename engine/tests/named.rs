//! The scripts by which faster joins are known to work, and what the architecture says is shown by a test: each has one
//! of its name.

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

#[test]
fn every_test_that_the_architecture_names_is_there() {
    let text = fs::read_to_string(root().join("engine/ARCHITECTURE.md")).expect("the file can be read");
    let (_, table) = text.split_once("| # | asked for |").expect("the table is there");
    let (table, _) = table.split_once("\n\n").expect("the table ends");
    let tests = tests();
    let mut rows = 0;
    for row in table.lines().skip(2) {
        let shown_by = row.trim_end_matches('|').rsplit('|').next().expect("a row has cells");
        let named: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "{row}");
        for name in named {
            assert!(tests.contains(name), "{name} is no test");
        }
        rows += 1;
    }
    assert!(rows >= 51, "{rows} rows");
}
