#!/bin/sh
# Fuzzes the core for some seconds: guided by coverage where cargo-fuzz is installed, by chance where it is not.
set -eu
cd "$(dirname "$0")/.."
seconds=$1
mkdir -p fuzz/artifacts

if command -v cargo-fuzz >/dev/null; then
    # What is found on the way stays out of the committed corpus.
    mkdir -p target/fuzz-corpus
    # The sanitizers' options are unstable ones; no memory is unsafe here, so none of them is needed.
    RUSTC_BOOTSTRAP=1 exec cargo fuzz run scenario --fuzz-dir fuzz --sanitizer none \
        target/fuzz-corpus fuzz/corpus/scenario -- -max_total_time="$seconds" -max_len=1216
fi

echo 'cargo-fuzz is not installed: running scenarios by chance instead, without guidance by coverage'
echo '(cargo install cargo-fuzz; its engine wants a C++ compiler)'
cargo build --quiet --locked --profile proof -p vpc-ipam-fuzz
seed=$(date +%s)
end=$((seed + seconds))
while [ "$(date +%s)" -lt "$end" ]; do
    "${CARGO_TARGET_DIR:-target}/proof/scenario" --cases 2000 --seed "$seed" --keep fuzz/artifacts
    seed=$((seed + 1))
done
