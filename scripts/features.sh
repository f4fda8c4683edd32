#!/bin/sh
# Checks each crate with every set of its features, but for the AWS SDK's, and its documentation without any.
set -eu
cd "$(dirname "$0")/.."

PATH="$PATH:$(scripts/tools.sh cargo-hack@0.6.46)"
export PATH RUSTFLAGS='-D warnings' RUSTDOCFLAGS='-D warnings'
hack() {
	CARGO_TARGET_DIR=target/features cargo hack --locked "$@"
}
hack check --feature-powerset --exclude-features default -p vpc-ipam-core -p vpc-ipam-linux
hack check --feature-powerset --exclude-features default,sdk -p vpc-ipam-aws
hack check --each-feature --exclude-features default,aws -p vpc-ipamd -p vpc-ipam
CARGO_TARGET_DIR=target/features cargo doc --quiet --locked --no-deps --no-default-features -p vpc-ipam-core -p vpc-ipam-linux -p vpc-ipam-aws
