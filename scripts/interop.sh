#!/bin/sh
# Calls the plugin through the newest libcni and go-cni, as runtimes of today do, on a node in a box. Needs root and Go.
set -eu
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"

command -v go >/dev/null 2>&1 || {
	echo "$0: needs Go (https://go.dev/dl), which builds interop/" >&2
	exit 1
}
[ "$(id -u)" = 0 ] || {
	echo "$0: needs root, which namespaces belong to" >&2
	exit 1
}
cargo build -p vpc-cni -p vpc-ipam --no-default-features --locked
folder=$(mktemp -d)
(cd interop && go build -o "$folder/driver" .)

name="interop$$"
lab=''
end() {
	target/debug/vpc-ipam lab down --name "$name" >/dev/null 2>&1 || true
	[ -z "$lab" ] || wait "$lab" 2>/dev/null || true
	for number in 0 1 2 3; do ip netns delete "vil-$name-io$number" 2>/dev/null || true; done
	rm -rf "$folder"
}
trap end EXIT
trap 'exit 1' INT TERM

target/debug/vpc-ipam lab up --name "$name" --json >"$folder/lab" &
lab=$!
tries=0
until [ -s "$folder/lab" ]; do
	tries=$((tries + 1))
	if [ "$tries" -gt 600 ] || ! kill -0 "$lab" 2>/dev/null; then
		echo "$0: the lab does not come up" >&2
		exit 1
	fi
	sleep 0.1
done
field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$folder/lab" "$1"; }

for number in 0 1 2 3; do ip netns add "vil-$name-io$number"; done
mkdir "$folder/work"
nsenter --net="/run/netns/$(field node_netns)" "$folder/driver" \
	--socket "$(field socket)" --plugins "$(field cni_bin_dir)" --folder "$folder/work" --netns "/run/netns/vil-$name-io"
