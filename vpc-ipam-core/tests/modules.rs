//! Which module of this crate uses which: what comes later in [`ORDER`] uses what comes before it, never the reverse.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The modules of `src`, each of which may use those before it.
const ORDER: [&str; 10] =
    ["setters", "model", "limits", "config", "pool", "plan", "capacity", "ipam", "sim", "testkit"];

#[test]
fn modules_use_only_modules_before_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let exported = exported(&std::fs::read_to_string(src.join("lib.rs")).unwrap());
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for path in files(&src) {
        let relative = path.strip_prefix(&src).unwrap();
        let first = relative.iter().next().unwrap().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        let Some(position) = ORDER.iter().position(|it| *it == module) else {
            assert_eq!(module, "lib", "{module} has no position in the order");
            continue;
        };
        for name in names(&std::fs::read_to_string(&path).unwrap()) {
            let used = exported.get(&name).unwrap_or(&name);
            let Some(used) = ORDER.iter().position(|it| it == used) else {
                panic!("{}: no module has {name}", relative.display());
            };
            uses.entry(module.to_owned()).or_default().insert(ORDER[used].to_owned());
            if used > position {
                wrong.push(format!("{} uses {name} of {}", relative.display(), ORDER[used]));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
    // What finds nothing proves nothing.
    let of_ipam: Vec<&str> = uses["ipam"].iter().map(String::as_str).collect();
    assert_eq!(of_ipam, ["config", "ipam", "limits", "model", "plan", "pool"]);
}

/// Returns the module of each name that the crate's root exports.
fn exported(lib: &str) -> BTreeMap<String, String> {
    let mut modules = BTreeMap::new();
    for item in code(lib).split(';').filter_map(|item| item.split_once("pub use ")) {
        let (module, path) = item.1.split_once("::").unwrap();
        let path = path.replace(['{', '}'], ",");
        for name in path.split(',').filter_map(|path| path.rsplit("::").next()) {
            modules.insert(name.trim().to_owned(), module.to_owned());
        }
    }
    modules
}

/// Returns the first names of the paths that begin with `crate::`, those of tests aside.
fn names(text: &str) -> BTreeSet<String> {
    let code = code(text);
    let code = code.split("#[cfg(test)]\nmod tests").next().unwrap();
    let mut names = BTreeSet::new();
    for path in code.split("crate::").skip(1) {
        let Some(list) = path.strip_prefix('{') else {
            names.insert(identifier(path));
            continue;
        };
        let mut depth = 0;
        let items = list.split_inclusive(['{', '}', ',']).take_while(|item| {
            let outer = depth;
            depth += item.matches('{').count() as i32 - item.matches('}').count() as i32;
            outer >= 0
        });
        let mut depth = 0;
        for item in items {
            if depth == 0 {
                names.insert(identifier(item.trim()));
            }
            depth += item.matches('{').count() as i32 - item.matches('}').count() as i32;
        }
    }
    names.remove("");
    names
}

fn identifier(path: &str) -> String {
    path.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect()
}

/// Returns a text without its comments.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap().to_owned() + "\n").collect()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files = Vec::new();
    for path in entries {
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
