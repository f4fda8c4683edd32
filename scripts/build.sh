#!/bin/sh
# Builds the release binaries into target/dist, each a static program: it runs on any node, whatever C library that has.
set -eu
cd "$(dirname "$0")/.."

target=$(rustc -vV | sed -n 's/^host: //p')
# With --target the flags are those of the programs alone: build scripts and macros cannot be static.
RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release --target "$target" -p vpc-cni -p vpc-ipamd -p vpc-ipam \
	--features vpc-ipamd/grpc
mkdir -p target/dist
for program in vpc-cni vpc-ipamd vpc-ipam; do
	built=${CARGO_TARGET_DIR:-target}/$target/release/$program
	if ! ldd "$built" 2>&1 | grep -q -e 'statically linked' -e 'not a dynamic executable'; then
		echo "$built is not static:" >&2
		ldd "$built" >&2
		exit 1
	fi
	cp "$built" target/dist/
done
ls -l target/dist
