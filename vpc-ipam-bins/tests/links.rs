//! The links of the documentation lead somewhere: to a file of the repository, and to a heading of it. What it quotes is printed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use vpc_ipam_protocol::Absent;

#[test]
fn what_a_plugin_without_a_daemon_says_is_quoted_for_operators() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/troubleshooting.md");
    let page = fs::read_to_string(page).unwrap();
    for what in [Absent::Socket, Absent::Listener] {
        assert!(page.contains(&format!("`{what} …/ipamd.sock`")), "{what}");
    }
}

#[test]
fn every_link_of_the_documentation_resolves() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let pages = pages(&root);
    assert!(pages.len() > 20, "{:?}", pages.keys());
    let mut links = 0;
    let mut broken = Vec::new();
    for (page, text) in &pages {
        for link in links_of(text) {
            if link.contains("://") {
                continue;
            }
            links += 1;
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => page.clone(),
                path => normal(&page.parent().unwrap().join(path)),
            };
            let there = target.exists();
            let headed = heading.is_empty()
                || pages.get(&target).is_some_and(|text| anchors(text).any(|it| it == heading));
            if !there || !headed {
                broken.push(format!("{}: {link}", page.strip_prefix(&root).unwrap().display()));
            }
        }
    }
    assert!(links > 50, "{links}");
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

/// Returns the pages of the repository, without their blocks of code.
fn pages(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut pages = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            if path.is_dir() && !path.is_symlink() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                // Every other piece between fences is code.
                let prose: Vec<_> = text.split("```").step_by(2).collect();
                pages.insert(path, prose.concat());
            }
        }
    }
    pages
}

/// Returns what stands in the round brackets of `[text](target)`.
fn links_of(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link)
}

/// Returns the names by which GitHub finds the headings of a page.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|it| it.is_alphanumeric() || " -_".contains(*it));
        kept.map(|it| if it == ' ' { '-' } else { it }).collect()
    })
}

/// Takes `..` out of a path.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, part| {
        if part == Component::ParentDir {
            path.pop();
        } else {
            path.push(part);
        }
        path
    })
}
