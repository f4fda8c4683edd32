#!/bin/sh
# Checks each crate with every set of its features, but for the AWS SDK's, and its documentation without any.
set -eu
cd "$(dirname "$0")/.."

PATH="$PATH:$(scripts/tools.sh cargo-hack@0.6.46)"
export PATH
hack() {
	cargo hack --locked clippy "$@" -- -D warnings
}
hack --feature-powerset --exclude-features default -p vpc-ipam-core -p vpc-ipam-linux
hack --feature-powerset --exclude-features default,sdk -p vpc-ipam-aws
hack --each-feature --exclude-features default,aws --exclude-all-features -p vpc-ipamd -p vpc-ipam
RUSTDOCFLAGS='-D warnings' cargo doc --quiet --locked --no-deps --no-default-features -p vpc-ipam-core -p vpc-ipam-linux -p vpc-ipam-aws
