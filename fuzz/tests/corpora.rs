//! Every target over every input of its corpus, and over the same inputs cut short and damaged. `docs/testing.md`
//! says how to search for more with `cargo fuzz`.

use std::path::Path;

use postroom_fuzz::TARGETS;

#[test]
fn every_target_holds_over_its_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in TARGETS {
        let inputs = inputs(&root.join(name));
        assert!(!inputs.is_empty(), "corpus/{name} has no inputs");
        for input in inputs {
            target(&input);
            for part in 0..16 {
                target(&input[..input.len() * part / 16]);
                let mut damaged = input.clone();
                if let Some(byte) = damaged.get_mut(input.len() * part / 16) {
                    *byte ^= 1 << (part % 8);
                    target(&damaged);
                }
            }
        }
    }
}

#[test]
fn targets_programs_and_corpora_have_the_same_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let expected: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names(&root.join("fuzz_targets"), ".rs"), expected);
    assert_eq!(names(&root.join("corpus"), ""), expected);
}

fn inputs(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| std::fs::read(entry.path()).expect("an input can be read"))
        .collect()
}

fn names(folder: &Path, suffix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names
        .filter_map(|name| Some(name.strip_suffix(suffix)?.to_owned()))
        .collect();
    names.sort();
    names
}
