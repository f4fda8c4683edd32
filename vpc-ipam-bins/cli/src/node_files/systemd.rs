//! Files of systemd: their sections, which of them count, and whether one is about a pod's link.

use wildmatch::WildMatch;

use super::NodeFiles;

/// The folders of systemd's files; a file hides those of its name in later ones.
const FOLDERS: [&str; 5] =
    ["/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd", "/lib/systemd"];

/// A section of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) name: String,
    entries: Vec<(String, String)>,
}

impl Section {
    /// Returns what a key says; of several lines the last counts.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let found = self.entries.iter().rev().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }
}

/// A file that counts.
pub(crate) struct Unit {
    pub(crate) path: String,
    pub(crate) sections: Vec<Section>,
}

impl Unit {
    /// Returns the first section of a name.
    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }
}

/// Reads the sections of a file.
pub(crate) fn parse(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            sections.push(Section { name: name.to_owned(), entries: Vec::new() });
        } else if !line.starts_with(['#', ';'])
            && let (Some((key, value)), Some(section)) = (line.split_once('='), sections.last_mut())
        {
            section.entries.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    sections
}

/// Returns the files of a folder below [`FOLDERS`] with this ending, in the order in which systemd takes them: by name.
pub(crate) fn units(files: &NodeFiles, folder: &str, ending: &str) -> Result<Vec<Unit>, String> {
    let mut paths: Vec<(String, String)> = Vec::new();
    for base in FOLDERS {
        let base = if folder.is_empty() { base.to_owned() } else { format!("{base}/{folder}") };
        for name in files.names(&base)? {
            if name.ends_with(ending) && paths.iter().all(|(before, _)| *before != name) {
                paths.push((name.clone(), format!("{base}/{name}")));
            }
        }
    }
    paths.sort();
    let mut units = Vec::new();
    for (_, path) in paths {
        let text = files.read(&path)?.unwrap_or_default();
        units.push(Unit { path, sections: parse(&text) });
    }
    Ok(units)
}

/// Returns a key of a section of a configuration file of systemd and its drop-ins, and the file that says it.
pub(crate) fn setting(
    files: &NodeFiles,
    file: &str,
    section: &str,
    key: &str,
) -> Result<Option<(String, String)>, String> {
    let mut found = None;
    let main = units(files, "", file)?;
    for unit in main.into_iter().chain(units(files, &format!("{file}.d"), ".conf")?) {
        let sections = unit.sections.iter().filter(|it| it.name == section);
        if let Some(value) = sections.filter_map(|it| it.get(key)).next_back() {
            found = Some((value.to_owned(), unit.path.clone()));
        }
    }
    Ok(found)
}

/// Returns whether systemd takes a value for no.
pub(crate) fn is_no(value: &str) -> bool {
    ["no", "false", "off", "0", "n", "f"].iter().any(|no| value.eq_ignore_ascii_case(no))
}

/// Returns whether a `[Match]` section is about a pod's link of this name, a veth; `name_key` is the key of names.
pub(crate) fn is_about_veth(section: &Section, name_key: &str, link: &str) -> bool {
    section.entries.iter().all(|(key, value)| match key.as_str() {
        key if key == name_key => any_of(value, link),
        "Driver" | "Kind" => any_of(value, "veth"),
        "Type" => any_of(value, "ether"),
        // A veth has no permanent address and no path, and its own address is nowhere in a file.
        "MACAddress" | "PermanentMACAddress" | "Path" => false,
        _ => true,
    })
}

/// Returns whether a list of patterns matches; a list that begins with `!` matches what it does not name.
fn any_of(patterns: &str, text: &str) -> bool {
    let (patterns, expected) = match patterns.strip_prefix('!') {
        Some(rest) => (rest, false),
        None => (patterns, true),
    };
    patterns.split_whitespace().any(|pattern| WildMatch::new(pattern).matches(text)) == expected
}
