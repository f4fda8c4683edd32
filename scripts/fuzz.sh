#!/bin/sh
# Fuzzes each target for some seconds: guided by coverage where cargo-fuzz is installed, by chance where it is not.
set -eu
cd "$(dirname "$0")/.."
seconds=$1
shift
targets=${*:-scenario netlink-dump nft-listing conntrack-answer}
mkdir -p fuzz/artifacts

if command -v cargo-fuzz >/dev/null; then
    # To optimise across crates takes minutes for each target, and finds nothing more.
    export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
    for target in $targets; do
        # What is found on the way stays out of the committed corpus.
        found=target/fuzz-corpus/$target
        mkdir -p "$found"
        # A setup of 16 bytes and 400 steps of three, and a few datagrams.
        case $target in scenario) longest=1216 ;; *) longest=8192 ;; esac
        echo "$target:"
        # The sanitizers' options are unstable ones; no memory is unsafe here, so none of them is needed.
        RUSTC_BOOTSTRAP=1 cargo fuzz run "$target" --fuzz-dir fuzz --sanitizer none \
            "$found" "fuzz/corpus/$target" -- -max_total_time="$seconds" -max_len="$longest"
    done
    exit
fi

echo 'cargo-fuzz is not installed: running inputs by chance instead, without guidance by coverage'
echo '(cargo install cargo-fuzz; its engine wants a C++ compiler)'
cargo build --quiet --locked --profile proof -p vpc-ipam-fuzz
for target in $targets; do
    case $target in
    # It makes inputs itself.
    scenario) start='--cases 2000' ;;
    *) start="--cases 200000 fuzz/corpus/$target" ;;
    esac
    echo "$target:"
    seed=$(date +%s)
    end=$((seed + seconds))
    while [ "$(date +%s)" -lt "$end" ]; do
        # shellcheck disable=SC2086 # Words.
        "${CARGO_TARGET_DIR:-target}/proof/$target" $start --seed "$seed" --keep fuzz/artifacts
        seed=$((seed + 1))
    done
done
