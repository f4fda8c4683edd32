#!/bin/sh
# Prints figures beside their references, each measured in the same run.
set -eu
cd "$(dirname "$0")/.."

# Programs are compared as they are shipped: static. With --target the flags are theirs alone, not build scripts'.
target=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS='-C target-feature=+crt-static'
cargo build --locked --release --target "$target" -p vpc-ipam-bins --no-default-features --bin vpc-cni
cargo bench --locked --target "$target" -p vpc-ipam-benches
