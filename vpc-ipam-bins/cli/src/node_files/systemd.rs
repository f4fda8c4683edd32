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

    /// Returns what all lines with a key say, in their order.
    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let of_key = self.entries.iter().filter(move |(name, _)| name == key);
        of_key.map(|(_, value)| value.as_str())
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

/// Returns the settings by which systemd-networkd removes what it did not make, and where they are; `None` where it neither runs nor is enabled.
pub(crate) fn networkd_removes(files: &NodeFiles) -> Result<Option<Vec<String>>, String> {
    const ENABLED: &str = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service";
    const KEYS: [&str; 2] = ["ManageForeignRoutes", "ManageForeignRoutingPolicyRules"];
    // The kernel cuts names of processes.
    let runs = files.processes().map(|all| all.iter().any(|it| it.name == "systemd-network"));
    if !files.exists(ENABLED) && !runs? {
        return Ok(None);
    }
    let mut foreign = Vec::new();
    for key in KEYS {
        match setting(files, "networkd.conf", "Network", key)? {
            Some((value, _)) if is_no(&value) => {}
            Some((value, path)) => foreign.push(format!("{key}={value} in {path}")),
            None => foreign.push(format!("{key} is not set, which means yes")),
        }
    }
    Ok(Some(foreign))
}

/// A variable that a service gets by `Environment=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnitVariable {
    pub(crate) name: String,
    pub(crate) value: String,
    /// The file that says so.
    pub(crate) path: String,
}

/// Returns the unit of a service, if there is one.
pub(crate) fn of_service(files: &NodeFiles, service: &str) -> Result<Option<Unit>, String> {
    let named = |unit: &Unit| unit.path.rsplit('/').next() == Some(service);
    Ok(units(files, "system", service)?.into_iter().find(named))
}

/// Returns the variables that a service and its drop-ins set by `Environment=`; of two with one name the later counts.
pub(crate) fn environment(files: &NodeFiles, service: &str) -> Result<Vec<UnitVariable>, String> {
    let mut all: Vec<Unit> = of_service(files, service)?.into_iter().collect();
    all.extend(units(files, &format!("system/{service}.d"), ".conf")?);
    let mut found: Vec<UnitVariable> = Vec::new();
    for unit in &all {
        let sections = unit.sections.iter().filter(|it| it.name == "Service");
        for value in sections.flat_map(|it| it.all("Environment")) {
            if value.is_empty() {
                found.clear();
            }
            for (name, value) in assignments(value) {
                found.retain(|before| before.name != name);
                found.push(UnitVariable { name, value, path: unit.path.clone() });
            }
        }
    }
    Ok(found)
}

/// Splits `A=1 "B=2 3"`: blanks stand between, but for those in quotation marks; a backslash makes the next character part of a value.
fn assignments(text: &str) -> Vec<(String, String)> {
    let mut words = vec![String::new()];
    let (mut within, mut escaped) = (None, false);
    for char in text.chars() {
        let word = words.last_mut().expect("there is one from the start");
        match char {
            char if escaped => {
                word.push(char);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' | '\'' if within.is_none() => within = Some(char),
            char if within == Some(char) => within = None,
            char if char.is_whitespace() && within.is_none() => words.push(String::new()),
            char => word.push(char),
        }
    }
    let pair = |word: &String| {
        Some(word.split_once('=')?).map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    words.iter().filter_map(pair).collect()
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn variables_of_a_service_are_those_of_its_file_and_its_drop_ins() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let at = root.path().join(path);
            fs::create_dir_all(at.parent().unwrap_or(Path::new("/"))).unwrap();
            fs::write(at, text).unwrap();
        };
        write(
            "usr/lib/systemd/system/x.service",
            "[Service]\nEnvironment=A=1 \"B=2 3\" 'C=it' D\nEnvironment=E=\n",
        );
        write("usr/lib/systemd/system/other-x.service", "[Service]\nEnvironment=A=9\n");
        write(
            "etc/systemd/system/x.service.d/10.conf",
            "[Unit]\nEnvironment=A=8\n[Service]\nEnvironment=A=a\\ b\n",
        );
        let found = |files: &NodeFiles| -> Vec<String> {
            let found = environment(files, "x.service").unwrap().into_iter();
            found
                .map(|it| {
                    format!(
                        "{}={} {}",
                        it.name,
                        it.value,
                        it.path.rsplit('/').next().unwrap_or_default()
                    )
                })
                .collect()
        };
        let files = NodeFiles::below(root.path());
        assert_eq!(
            found(&files),
            ["B=2 3 x.service", "C=it x.service", "E= x.service", "A=a b 10.conf"]
        );
        // An empty line takes back what was before, and a file hides the same one of the distribution.
        write(
            "etc/systemd/system/x.service.d/20.conf",
            "[Service]\nEnvironment=\nEnvironment=F=1\n",
        );
        assert_eq!(found(&files), ["F=1 20.conf"]);
    }
}
