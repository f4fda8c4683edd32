#!/bin/sh
# Makes sure that programs of cargo's are there which `make lint` calls, and prints the folder that they are in: installed into
# target/tools where they are not on the PATH. A build for debugging takes a third of the time and is fast enough.
#   usage: tools.sh NAME@VERSION...
set -eu
cd "$(dirname "$0")/.."

tools=$PWD/target/tools
for tool in "$@"; do
	name=${tool%@*}
	PATH="$PATH:$tools/bin" command -v "$name" >/dev/null 2>&1 && continue
	echo "installing $tool into target/tools: a few minutes, once" >&2
	if ! cargo install --quiet --locked --debug --root "$tools" --target-dir "$tools/build" "$tool" >&2; then
		echo "$tool cannot be installed: without it licences, sources and features are not checked" >&2
		exit 1
	fi
	# Of no use once the program is there.
	rm -rf "$tools/build"
done
echo "$tools/bin"
