#!/bin/sh
# Prints figures beside their references, each measured in the same run.
set -eu
cd "$(dirname "$0")/.."

gungraun=$(sed -n '/^name = "gungraun-runner"$/{n;s/^version = "\(.*\)"$/\1/p;}' Cargo.lock)
missing=''
command -v valgrind >/dev/null || missing='valgrind (apt-get install valgrind)'
gungraun-runner --version 2>/dev/null | grep -qF "$gungraun" ||
	missing="${missing:+$missing and }gungraun-runner (cargo install gungraun-runner --version $gungraun)"
command -v strace >/dev/null ||
	echo 'System calls are not counted, for want of strace (apt-get install strace)'

# Programs are compared as they are shipped: static. With --target the flags are theirs alone, not build scripts'.
target=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS='-C target-feature=+crt-static'
cargo build --locked --release --target "$target" -p vpc-cni
bench() {
	cargo bench --locked --target "$target" -p vpc-ipam-benches --bench "$@"
}
bench ipam -- --warm-up-time 1 --measurement-time 2
bench datapath --features lab
if [ -z "$missing" ]; then
	bench gates
else
	echo "The limits of instructions were not checked, for want of $missing"
fi
