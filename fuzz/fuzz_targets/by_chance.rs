//! Runs a target without the fuzzing engine: on files, or on what comes of changing them by chance.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

const USAGE: &str = "usage: TARGET FILE...
       TARGET --cases COUNT [--seed SEED] [--keep FOLDER] FILE...

Reads files, all of a folder, or COUNT inputs that SEED makes of them (default: the process id), and tells which break a rule.
Inputs that break a rule are kept in FOLDER, to be run again, and to join the corpus.";

/// What reads bytes, and says which rule does not hold.
type Target = fn(&[u8]) -> Result<(), String>;

pub(crate) fn main(target: Target) -> ExitCode {
    let Some(arguments) = Arguments::parse(env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let files = match read(&arguments.files) {
        Ok(files) => files,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let broke = match arguments.cases {
        None => in_files(target, &files),
        Some(count) => changed(target, &files, count, arguments.seed, &arguments.keep),
    };
    if broke == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Arguments {
    files: Vec<PathBuf>,
    cases: Option<u64>,
    seed: u64,
    keep: PathBuf,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let seed = u64::from(std::process::id());
        let mut parsed = Self { files: Vec::new(), cases: None, seed, keep: PathBuf::from(".") };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--cases" => parsed.cases = Some(arguments.next()?.parse().ok()?),
                "--seed" => parsed.seed = arguments.next()?.parse().ok()?,
                "--keep" => parsed.keep = arguments.next()?.into(),
                option if option.starts_with('-') => return None,
                file => parsed.files.push(file.into()),
            }
        }
        (!parsed.files.is_empty()).then_some(parsed)
    }
}

/// Returns what is in files, and in the files of folders.
fn read(paths: &[PathBuf]) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                files.push(entry?.path());
            }
        } else {
            files.push(path.clone());
        }
    }
    files.sort();
    files.into_iter().map(|file| Ok((file.clone(), fs::read(file)?))).collect()
}

fn in_files(target: Target, files: &[(PathBuf, Vec<u8>)]) -> usize {
    let mut broke = 0;
    for (file, bytes) in files {
        match run(target, bytes) {
            Ok(()) => println!("{}: holds", file.display()),
            Err(rule) => {
                println!("{}: broken: {rule}", file.display());
                broke += 1;
            }
        }
    }
    broke
}

fn changed(
    target: Target,
    files: &[(PathBuf, Vec<u8>)],
    count: u64,
    seed: u64,
    keep: &Path,
) -> usize {
    let mut random = Random(seed);
    let mut broke = 0;
    for case in 0..count {
        let bytes = random.change(files);
        if let Err(rule) = run(target, &bytes) {
            let file = keep.join(format!("case-{seed}-{case}"));
            match fs::write(&file, &bytes) {
                Ok(()) => eprintln!("{rule}: kept as {}", file.display()),
                Err(error) => eprintln!("{rule}: {bytes:?}, not kept: {error}"),
            }
            broke += 1;
        }
    }
    println!("{count} cases, seed {seed}, {broke} broke a rule");
    broke
}

fn run(target: Target, bytes: &[u8]) -> Result<(), String> {
    catch_unwind(|| target(bytes)).unwrap_or_else(|_| Err("it panicked".to_owned()))
}

/// Pseudo-random numbers by the SplitMix64 generator.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }

    /// Returns one of some files with up to eight changes.
    fn change(&mut self, files: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
        let one = |random: &mut Self| files.get(random.below(files.len())).map(|(_, it)| &**it);
        let mut bytes = one(self).unwrap_or_default().to_vec();
        for _ in 0..=self.below(8) {
            let at = self.below(bytes.len());
            let end = bytes.len().min(at + self.below(32));
            match self.below(5) {
                0 => drop(bytes.drain(at..end)),
                1 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
                2 => {
                    let other = one(self).unwrap_or_default();
                    let from = self.below(other.len());
                    let to = other.len().min(from + self.below(64));
                    drop(bytes.splice(at..end, other[from..to].iter().copied()));
                }
                change => {
                    let value =
                        if change == 3 { self.below(256) } else { [0, 1, 4, 255][self.below(4)] };
                    bytes.get_mut(at).into_iter().for_each(|byte| *byte = value as u8);
                }
            }
        }
        bytes
    }
}
