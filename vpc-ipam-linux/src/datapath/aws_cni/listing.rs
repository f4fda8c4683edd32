//! What belongs to amazon-vpc-cni-k8s in the listings of iptables-save and nft.

/// The tables of iptables that have rules of amazon-vpc-cni-k8s. Other tables may have what looks like it.
pub(crate) const TABLES: [&str; 2] = ["nat", "mangle"];

/// What there is in one table of iptables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SavedTable {
    pub(super) name: String,
    /// The rules of amazon-vpc-cni-k8s in chains that are not its own, as `iptables-save` prints them behind `-A `.
    pub(super) rules: Vec<String>,
    /// The chains of amazon-vpc-cni-k8s in the table.
    pub(super) chains: Vec<String>,
    /// The rules in those chains, printed likewise.
    pub(super) in_chains: Vec<String>,
    /// Rules of other programs that lead to its chains.
    pub(super) users: Vec<String>,
}

/// What the names of the chains of amazon-vpc-cni-k8s begin with; a number follows.
const CHAINS: [&str; 2] = ["AWS-SNAT-CHAIN-", "AWS-CONNMARK-CHAIN-"];

/// The comments of the rules of amazon-vpc-cni-k8s in chains that are not its own. The second is that of versions up to 1.5, the last
/// that of versions that had no chains.
const COMMENTS: [&str; 6] = [
    "AWS SNAT CHAIN",
    "AWS SNAT CHAN",
    "AWS, primary ENI",
    "AWS, outbound connections",
    "AWS, CONNMARK",
    "AWS, SNAT",
];

impl SavedTable {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            rules: Vec::new(),
            chains: Vec::new(),
            in_chains: Vec::new(),
            users: Vec::new(),
        }
    }

    /// Returns whether there is a rule that gives packets another source, and one that leads to it.
    pub(super) fn translates(&self) -> bool {
        let snat = |rule: &String| target(rule).as_deref() == Some("SNAT");
        let leads = |rule: &String| target(rule).is_some_and(|chain| self.chains.contains(&chain));
        // Versions that had no chains had the one rule.
        self.rules.iter().any(snat)
            || self.in_chains.iter().any(snat) && self.rules.iter().any(leads)
    }

    /// Writes what `iptables-restore` is to do, in one transaction, so that the table has all of it where there are these chains and
    /// rules of it now.
    fn restoration(&self, now: Option<&Self>) -> String {
        // To name a chain empties it.
        let chains = self.chains.iter().map(|chain| format!(":{chain} - [0:0]\n"));
        let in_chains = self.in_chains.iter();
        let is_there = |rule: &&String| now.is_some_and(|now| now.rules.contains(rule));
        let rules = self.rules.iter().filter(|rule| !is_there(rule));
        let rules = in_chains.chain(rules).map(|rule| format!("-A {rule}\n"));
        let lines: String = chains.chain(rules).collect();
        format!("*{}\n{lines}COMMIT\n", self.name)
    }

    /// Writes what `iptables-restore` is to do, in one transaction.
    pub(super) fn removal(&self) -> String {
        let rules = self.rules.iter().map(|rule| format!("-D {rule}\n"));
        // Of old, one jumped to the next: none can go before all are empty.
        let flush = self.chains.iter().map(|chain| format!("-F {chain}\n"));
        let delete = self.chains.iter().map(|chain| format!("-X {chain}\n"));
        let lines: String = rules.chain(flush).chain(delete).collect();
        format!("*{}\n{lines}COMMIT\n", self.name)
    }
}

/// Reads what `iptables-save` prints.
pub(super) fn recognise(saved: &str) -> Vec<SavedTable> {
    let mut tables: Vec<SavedTable> = Vec::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            tables.push(SavedTable::new(name));
        }
        let Some(table) = tables.last_mut() else {
            continue;
        };
        if let Some(chain) = line.strip_prefix(':') {
            let name = chain.split(' ').next().unwrap_or_default();
            table.chains.extend(is_chain(name).then(|| name.to_owned()));
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let chain = rule.split(' ').next().unwrap_or_default();
            // What is in its chains goes with them.
            if is_chain(chain) {
                table.in_chains.push(rule.to_owned());
                continue;
            }
            // Other programs lead to its chains too, under comments of their own.
            if comment(rule).is_some_and(|comment| COMMENTS.contains(&&*comment)) {
                table.rules.push(rule.to_owned());
            } else if target(rule).is_some_and(|target| is_chain(&target)) {
                table.users.push(rule.to_owned());
            }
        }
    }
    tables.retain(|it| {
        TABLES.contains(&it.name.as_str())
            && (!it.rules.is_empty() || !it.chains.is_empty() || !it.users.is_empty())
    });
    tables
}

/// Writes what `iptables-restore --noflush` is to do so that there is again what `iptables-save` printed of amazon-vpc-cni-k8s, given
/// what it prints now; nothing of other programs is in it.
pub(super) fn restoration(then: &str, now: &str) -> String {
    let now = recognise(now);
    let of_then =
        recognise(then).into_iter().filter(|it| !it.rules.is_empty() || !it.chains.is_empty());
    of_then.map(|it| it.restoration(now.iter().find(|now| now.name == it.name))).collect()
}

/// Returns the tables that `iptables-save` says it cannot list: they hold what only nft can make.
pub(super) fn incompatible(saved: &str) -> Vec<&str> {
    saved.lines().filter_map(incompatible_table).collect()
}

fn incompatible_table(line: &str) -> Option<&str> {
    let (name, rest) = line.strip_prefix("# Table `")?.split_once('\'')?;
    rest.contains("incompatible").then_some(name)
}

/// Returns what in a listing of nft may belong to amazon-vpc-cni-k8s, in words; nft shows no comments of iptables.
pub(super) fn signs_in_nft(listing: &str) -> Option<String> {
    let chain = |line: &str| -> Option<String> {
        let name = line.trim().strip_prefix("chain ")?.strip_suffix(" {")?.trim_matches('"');
        is_chain(name).then(|| name.to_owned())
    };
    let chains: Vec<String> = listing.lines().filter_map(chain).collect();
    if !chains.is_empty() {
        return Some(format!("has the chains {}", chains.join(", ")));
    }
    // As nft writes CONNMARK, by version.
    let marks = |line: &&str| line.contains("ct mark") || line.contains("CONNMARK");
    let rule = listing.lines().find(marks)?;
    Some(format!("has a rule that may be its own ({})", rule.trim()))
}

/// Returns whether a chain belongs to amazon-vpc-cni-k8s.
pub(crate) fn is_chain(name: &str) -> bool {
    let number = |prefix| name.strip_prefix(prefix).map(|rest: &str| rest.parse::<u32>());
    CHAINS.into_iter().filter_map(number).any(|number| number.is_ok())
}

/// Returns whether bytes hold the comment of a rule of amazon-vpc-cni-k8s as iptables-nft hands it to the kernel.
#[cfg(feature = "watch")]
pub(crate) fn has_comment(rule: &[u8]) -> bool {
    let ends = |text: &[u8], len: usize| text.get(len).is_none_or(|byte| *byte == 0);
    let mut at = (0..rule.len()).filter(|at| rule[*at..].starts_with(b"AWS"));
    at.any(|at| {
        let begins = at == 0 || !rule[at - 1].is_ascii_graphic() && rule[at - 1] != b' ';
        let text = &rule[at..];
        begins && COMMENTS.iter().any(|it| text.starts_with(it.as_bytes()) && ends(text, it.len()))
    })
}

/// Returns the chain or target to which a rule leads.
pub(super) fn target(rule: &str) -> Option<String> {
    let words = words(rule);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            // What follows is text and no option, whatever it looks like.
            "--comment" => drop(words.next()),
            "-j" | "-g" => return words.next().cloned(),
            _ => {}
        }
    }
    None
}

pub(super) fn comment(rule: &str) -> Option<String> {
    let mut words = words(rule).into_iter();
    words.find(|word| word == "--comment")?;
    words.next()
}

/// Returns the words of a rule: those that hold blanks are in quotation marks, in which a backslash precedes what would end them.
pub(super) fn words(rule: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let (mut within, mut escaped) = (false, false);
    for char in rule.chars() {
        if char == ' ' && !within {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        match char {
            char if escaped => {
                word.push(char);
                escaped = false;
            }
            '\\' if within => escaped = true,
            '"' => within = !within,
            char => word.push(char),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The program that made a rule in a chain that does not belong to amazon-vpc-cni-k8s.
    #[derive(Debug, PartialEq, Eq)]
    enum RuleOwner {
        AwsCni,
        /// Another program, whose rule leads to a chain of amazon-vpc-cni-k8s.
        Users,
        Others,
    }

    #[test]
    fn rules_of_amazon_vpc_cni_k8s_are_told_from_those_of_other_programs() {
        use RuleOwner::{AwsCni, Others, Users};
        let cases = [
            (r#"POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0"#, AwsCni),
            (r#"POSTROUTING -m comment --comment "AWS SNAT CHAN" -j AWS-SNAT-CHAIN-0"#, AwsCni),
            (
                r#"PREROUTING -i eni+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark"#,
                AwsCni,
            ),
            (r#"PREROUTING -m comment --comment "AWS, CONNMARK" -j CONNMARK"#, AwsCni),
            // As versions made it that had no chains.
            (
                r#"POSTROUTING ! -d 10.0.0.0/16 -m comment --comment "AWS, SNAT" -j SNAT --to-source 10.0.0.10"#,
                AwsCni,
            ),
            ("AWS-SNAT-CHAIN-0 -d 10.0.0.0/16 -j RETURN", Others),
            (
                r#"PREROUTING -i antrea-gw0 -m comment --comment "Antrea: AWS, outbound connections" -j AWS-CONNMARK-CHAIN-0"#,
                Users,
            ),
            ("POSTROUTING -j AWS-SNAT-CHAIN-7", Users),
            ("PREROUTING -i tap0 -g AWS-CONNMARK-CHAIN-0", Users),
            (
                r#"ANTREA-MANGLE -m comment --comment "Antrea: AWS, primary ENI" -j CONNMARK"#,
                Others,
            ),
            (r#"KUBE-SERVICES -m comment --comment "kubernetes: AWS" -j KUBE-SVC-1"#, Others),
            ("POSTROUTING -j AWS-SNAT-CHAIN-MINE", Others),
            (
                r#"INPUT -m comment --comment "say \"--comment \\\"AWS, CONNMARK\\\"\" -j AWS-SNAT-CHAIN-0" -j ACCEPT"#,
                Others,
            ),
            ("INPUT -m comment --comment -j -j AWS-SNAT-CHAIN-0", Users),
        ];
        for (rule, expected) in cases {
            let tables =
                recognise(&format!("*nat\n:POSTROUTING ACCEPT [0:0]\n-A {rule}\nCOMMIT\n"));
            let has = |list: fn(&SavedTable) -> &Vec<String>| {
                tables.iter().any(|table| list(table).contains(&rule.to_owned()))
            };
            let actual = match (has(|it| &it.rules), has(|it| &it.users)) {
                (true, false) => AwsCni,
                (false, true) => Users,
                (false, false) => Others,
                (true, true) => panic!("both: {rule}"),
            };
            assert_eq!(actual, expected, "{rule}");
        }
    }

    #[test]
    fn removal_names_each_rule_and_then_each_chain() {
        let saved = "*nat\n:POSTROUTING ACCEPT [0:0]\n:AWS-SNAT-CHAIN-0 - [0:0]\n:AWS-SNAT-CHAIN-1 - [0:0]\n\
                     -A POSTROUTING -m comment --comment \"AWS SNAT CHAIN\" -j AWS-SNAT-CHAIN-0\n\
                     -A AWS-SNAT-CHAIN-0 -j AWS-SNAT-CHAIN-1\nCOMMIT\n\
                     *filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j ACCEPT\nCOMMIT\n";
        let removals: Vec<_> = recognise(saved).iter().map(SavedTable::removal).collect();
        assert_eq!(
            removals,
            ["*nat\n-D POSTROUTING -m comment --comment \"AWS SNAT CHAIN\" -j AWS-SNAT-CHAIN-0\n\
              -F AWS-SNAT-CHAIN-0\n-F AWS-SNAT-CHAIN-1\n-X AWS-SNAT-CHAIN-0\n-X AWS-SNAT-CHAIN-1\nCOMMIT\n"]
        );
    }

    #[test]
    fn what_was_saved_is_restored_once_whatever_is_left_of_it() {
        let jump = "-A POSTROUTING -m comment --comment \"AWS SNAT CHAIN\" -j AWS-SNAT-CHAIN-0\n";
        let snat = "-A AWS-SNAT-CHAIN-0 -m comment --comment \"AWS, SNAT\" -j SNAT --to-source 10.0.0.10\n";
        let then = format!(
            "*nat\n:POSTROUTING ACCEPT [0:0]\n:AWS-SNAT-CHAIN-0 - [0:0]\n:KUBE-SERVICES - [0:0]\n\
             -A POSTROUTING -j KUBE-SERVICES\n{jump}{snat}COMMIT\n\
             *filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j ACCEPT\nCOMMIT\n"
        );
        let chain = ":AWS-SNAT-CHAIN-0 - [0:0]\n";
        let empty = "*nat\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n";
        assert_eq!(restoration(&then, empty), format!("*nat\n{chain}{snat}{jump}COMMIT\n"));
        assert_eq!(restoration(&then, &then), format!("*nat\n{chain}{snat}COMMIT\n"));
        assert_eq!(restoration(empty, &then), "");
        let translates = |saved: &str| recognise(saved).iter().any(SavedTable::translates);
        assert!(translates(&then) && !translates(empty));
        assert!(!translates(&then.replace(jump, "")) && !translates(&then.replace(snat, "")));
    }

    #[test]
    fn what_nft_shows_of_iptables_tells_chains_and_no_comments() {
        let cases = [
            (
                "table ip nat {\n\tchain AWS-SNAT-CHAIN-0 {\n\t}\n}",
                Some("the chains AWS-SNAT-CHAIN-0"),
            ),
            ("table ip nat {\n\tchain KUBE-SERVICES {\n\t}\n}", None),
            // By version of nft.
            ("\t\tiifname \"eni*\" counter meta mark set ct mark and 0x80", Some("may be its own")),
            (
                "\t\tiifname \"eni*\" xt match \"comment\" counter xt target \"CONNMARK\"",
                Some("may be"),
            ),
            (
                "\tchain KUBE-POSTROUTING {\n\t\tmeta mark & 0x4000 != 0x4000 counter return\n\t}",
                None,
            ),
        ];
        for (listing, expected) in cases {
            let actual = signs_in_nft(listing);
            match expected {
                Some(words) => assert!(
                    actual.as_ref().is_some_and(|it| it.contains(words)),
                    "{listing}: {actual:?}"
                ),
                None => assert_eq!(actual, None, "{listing}"),
            }
        }
        let saved = "*mangle\nCOMMIT\n# Table `nat' is incompatible, use 'nft' tool.\n";
        assert_eq!(incompatible(saved), ["nat"]);
    }
}
