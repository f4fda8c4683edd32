#!/bin/sh
# Builds the release binaries; the plugin, which is started for every pod, as a static program.
set -eu
cd "$(dirname "$0")/.."

target=$(rustc -vV | sed -n 's/^host: //p')
# With --target the flags are the plugin's alone: build scripts and macros cannot be static.
RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release --target "$target" -p vpc-cni
cargo build --locked --release -p vpc-ipamd -p vpc-ipam
mkdir -p target/dist
cp "target/$target/release/vpc-cni" target/release/vpc-ipamd target/release/vpc-ipam target/dist/
ls -l target/dist
