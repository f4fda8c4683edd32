//! Scenarios of the core's driver: under `cargo fuzz` a fuzz target; otherwise a program that runs the scenarios in
//! files, or many that a seed decides.
#![cfg_attr(fuzzing, no_main)]

use vpc_ipam_core::testkit::Scenario;

/// Runs the scenario that bytes stand for, and panics with its transcript if a rule does not hold.
fn run(bytes: &[u8]) {
    let scenario = Scenario::decode(bytes);
    if let Err(broken) = scenario.run() {
        panic!("{broken}\n\n{}", scenario.transcript());
    }
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| run(bytes));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    many::main()
}

#[cfg(not(fuzzing))]
mod many {
    use std::panic::catch_unwind;
    use std::process::ExitCode;
    use std::{env, fs};

    const USAGE: &str = "usage: scenario FILE...
       scenario --cases COUNT [--seed SEED] [--keep FOLDER]

Runs the scenarios in files, or COUNT that SEED decides (default: the process id), and tells which broke a rule.
Scenarios that break a rule are made shorter and kept in FOLDER, to be run again, and to join the corpus.";

    pub(crate) fn main() -> ExitCode {
        match Arguments::parse(env::args().skip(1)) {
            Some(Arguments::Files(files)) => in_files(&files),
            Some(Arguments::Cases { count, seed, keep }) => of_seed(count, seed, keep.as_deref()),
            None => {
                eprintln!("{USAGE}");
                ExitCode::from(2)
            }
        }
    }

    enum Arguments {
        Files(Vec<String>),
        Cases { count: u64, seed: u64, keep: Option<String> },
    }

    impl Arguments {
        fn parse(arguments: impl Iterator<Item = String>) -> Option<Self> {
            let arguments: Vec<String> = arguments.collect();
            let value = |name: &str| {
                let at = arguments.iter().position(|argument| argument == name)?;
                arguments.get(at + 1).cloned()
            };
            match arguments.first()?.as_str() {
                first if !first.starts_with('-') => Some(Self::Files(arguments)),
                _ => Some(Self::Cases {
                    count: value("--cases")?.parse().ok()?,
                    seed: match value("--seed") {
                        Some(seed) => seed.parse().ok()?,
                        None => u64::from(std::process::id()),
                    },
                    keep: value("--keep"),
                }),
            }
        }
    }

    fn in_files(files: &[String]) -> ExitCode {
        let mut broke = 0;
        for file in files {
            match fs::read(file) {
                Ok(bytes) if holds(&bytes) => println!("{file}: holds"),
                Ok(bytes) => {
                    println!("{file}: broken");
                    let _ = catch_unwind(|| super::run(&bytes));
                    broke += 1;
                }
                Err(error) => {
                    eprintln!("{file}: {error}");
                    broke += 1;
                }
            }
        }
        if broke == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn of_seed(count: u64, seed: u64, keep: Option<&str>) -> ExitCode {
        let mut random = Random(seed);
        let mut broke = 0;
        for case in 0..count {
            let bytes = scenario(&mut random);
            if case > 0 && case % 10_000 == 0 {
                println!("{case} cases, {broke} broke a rule");
            }
            if holds(&bytes) {
                continue;
            }
            broke += 1;
            let bytes = shorten(bytes);
            let _ = catch_unwind(|| super::run(&bytes));
            let file = format!("{}/case-{seed}-{case}", keep.unwrap_or("."));
            match fs::write(&file, &bytes) {
                Ok(()) => eprintln!("case {case} of seed {seed}: kept as {file}"),
                Err(error) => eprintln!("case {case} of seed {seed}: {bytes:?}, not kept: {error}"),
            }
            if broke >= 10 {
                println!(
                    "stopped after {} of {count} cases: seed {seed}, {broke} broke a rule",
                    case + 1
                );
                return ExitCode::FAILURE;
            }
        }
        println!("{count} cases, seed {seed}, {broke} broke a rule");
        if broke == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Returns whether every rule holds, and nothing panics.
    fn holds(bytes: &[u8]) -> bool {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let holds = catch_unwind(|| vpc_ipam_core::testkit::Scenario::decode(bytes).run().is_ok());
        std::panic::set_hook(before);
        holds.unwrap_or(false)
    }

    /// Makes bytes that break a rule fewer and smaller, as long as they break one.
    fn shorten(mut bytes: Vec<u8>) -> Vec<u8> {
        const SETUP: usize = 16;
        const STEP: usize = 3;
        let mut again = true;
        while again {
            again = false;
            let mut size = (bytes.len().saturating_sub(SETUP) / STEP / 2).max(1);
            while size > 0 {
                let mut at = SETUP;
                while at < bytes.len() {
                    let mut shorter = bytes.clone();
                    shorter.drain(at..bytes.len().min(at + size * STEP));
                    if holds(&shorter) {
                        at += size * STEP;
                    } else {
                        bytes = shorter;
                        again = true;
                    }
                }
                size /= 2;
            }
            for at in 0..bytes.len() {
                for smaller in [0, bytes[at] / 2, bytes[at].saturating_sub(1)] {
                    let mut simpler = bytes.clone();
                    simpler[at] = smaller;
                    if smaller < bytes[at] && !holds(&simpler) {
                        bytes = simpler;
                        again = true;
                    }
                }
            }
        }
        bytes
    }

    /// Makes the bytes of a scenario: a setup of which most choices are the simplest, and up to 80 steps.
    fn scenario(random: &mut Random) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..16 {
            bytes.push(if random.below(2) == 0 { 0 } else { random.below(256) as u8 });
        }
        // Few pods, so that the same ones come back.
        let pods = [3, 12, 64][random.below(3) as usize];
        for _ in 0..random.below(80) {
            let op = random.below(64) as u8;
            let most = if (9..=19).contains(&op) { pods } else { 256 };
            bytes.extend([op, random.below(most) as u8, random.below(256) as u8]);
        }
        bytes
    }

    /// Pseudo-random numbers by the SplitMix64 generator.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % bound
        }
    }
}
