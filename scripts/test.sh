#!/bin/sh
# Runs `cargo test` with the arguments given.
#   usage: test.sh [ARGUMENTS OF cargo test]
#          test.sh --check    only sees whether tests can run
# Who is not root gets each test program run as root of a user namespace of its own, without the tests that need root of the
# machine: those in modules called as_root. Where the system allows no such namespace, nothing is tested, and a line says why.
set -eu
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"

if unshare --mount --net true 2>/dev/null && [ -w /run ]; then
	[ "${1-}" != --check ] || exit 0
	exec cargo test "$@"
fi

# The settings by which systems forbid it: the file, what it says then, and what helps. Those of `vpc-ipam lab` are the same.
hint() {
	while read -r file forbids allows; do
		if [ "$(cat "$file" 2>/dev/null)" = "$forbids" ]; then
			echo "forbidden by $file, which sudo sysctl -w $allows changes"
			return
		fi
	done <<-SETTINGS
		/proc/sys/user/max_user_namespaces 0 user.max_user_namespaces=10000
		/proc/sys/user/max_net_namespaces 0 user.max_net_namespaces=10000
		/proc/sys/user/max_mnt_namespaces 0 user.max_mnt_namespaces=10000
		/proc/sys/kernel/unprivileged_userns_clone 0 kernel.unprivileged_userns_clone=1
		/proc/sys/kernel/apparmor_restrict_unprivileged_userns 1 kernel.apparmor_restrict_unprivileged_userns=0
	SETTINGS
	echo 'forbidden by the system or the container'
}

runner="$PWD/scripts/in-user-namespace.sh"
if ! why=$("$runner" true 2>&1); then
	echo "nothing was tested: tests need root, or a user namespace, which is $(hint) ($why)" >&2
	exit 1
fi

[ "${1-}" != --check ] || exit 0

without='--skip as_root::'
case " $* " in
*' -- '*) ;;
*) without="-- $without" ;;
esac
code=0
# shellcheck disable=SC2086 # the words are arguments of their own
cargo test --config "target.'cfg(target_os = \"linux\")'.runner = '$runner'" "$@" $without || code=$?
echo 'not tested, because that takes root of the machine: containers by containerd, files and processes of a second user (as_root)' >&2
exit "$code"
