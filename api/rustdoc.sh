#!/bin/sh
# Runs rustdoc so that it writes JSON, which a stable one does only when told that it is not. For this program alone: build scripts
# look at the variable, and cargo would compile everything again.
RUSTC_BOOTSTRAP=1 exec "${VPC_IPAM_RUSTDOC:?}" "$@" -Z unstable-options --output-format json
