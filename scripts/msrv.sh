#!/bin/sh
# Tests vpc-ipam-core with the oldest Rust that it promises, 1.85: Debian's rustc-web, unpacked into target/msrv, without installing it.
#   usage: msrv.sh [ARGUMENTS OF cargo test]
set -eu
cd "$(dirname "$0")/.."

version=1.85.0+dfsg3-1~deb12u3
folder=$PWD/target/msrv
if [ ! -x "$folder/rustc" ]; then
	command -v apt-get >/dev/null && command -v dpkg >/dev/null || {
		echo "this needs Debian's apt-get and dpkg: rustc-web $version of Debian 12 is the compiler" >&2
		exit 1
	}
	rm -rf "$folder"
	mkdir -p "$folder/packages"
	echo "unpacking rustc-web $version into target/msrv"
	(
		cd "$folder/packages"
		apt-get download "rustc-web=$version" "libstd-rust-web-dev=$version" "libstd-rust-web-1.85=$version" libllvm19 2>&1 |
			grep -v '^W: Download is performed unsandboxed' >&2
		for package in *.deb; do dpkg -x "$package" "$folder"; done
	)
	rm -r "$folder/packages"
	cat >"$folder/rustc" <<-RUSTC
		#!/bin/sh
		LD_LIBRARY_PATH=$folder/usr/lib/x86_64-linux-gnu exec $folder/usr/bin/rustc --sysroot $folder/usr "\$@"
	RUSTC
	sed 's#/bin/rustc --sysroot [^ ]*#/bin/rustdoc#' "$folder/rustc" >"$folder/rustdoc"
	chmod +x "$folder/rustc" "$folder/rustdoc"
fi
"$folder/rustc" --version

export RUSTC="$folder/rustc" RUSTDOC="$folder/rustdoc" CARGO_TARGET_DIR=target/msrv/build
for features in '' serde sim; do
	echo "vpc-ipam-core with features: ${features:-none}"
	cargo check --quiet --locked -p vpc-ipam-core --no-default-features --features "$features"
done
cargo test --locked -p vpc-ipam-core --all-features "$@"
