//! Inputs of the fuzzer: what kernels and programs said, and whatever broke a rule once.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use std::fs;
use std::path::Path;

use vpc_ipam_linux::testkit::{conntrack_answer, netlink_dump, nft_listing};

#[test]
fn corpus_holds() {
    let targets: [(&str, fn(&[u8]) -> Result<(), String>); 3] = [
        ("netlink-dump", netlink_dump),
        ("nft-listing", nft_listing),
        ("conntrack-answer", conntrack_answer),
    ];
    for (target, check) in targets {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let mut count = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            let file = entry.unwrap().path();
            let result = check(&fs::read(&file).unwrap());
            assert_eq!(result, Ok(()), "{}", file.display());
            count += 1;
        }
        assert!(count > 3, "{count} inputs in {}", folder.display());
    }
}
