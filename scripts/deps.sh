#!/bin/sh
# Makes sure that the programs are there which the lab or the tests call.
#   usage: deps.sh lab|test
# As root on Debian it installs what is missing; otherwise it says what that is.
set -eu

missing=''
want() { # program, Debian package
	PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

want nft nftables
want cc gcc
case "$1" in
lab) ;;
test)
	want ip iproute2
	want iptables iptables
	want conntrack conntrack
	want setpriv util-linux
	want unshare util-linux
	want python3 python3
	# Its programs are beside no path.
	[ -x /usr/lib/cni/portmap ] || missing="$missing containernetworking-plugins"
	want systemd-analyze systemd
	# The unit's ExecReload; shells have one of their own.
	[ -x /bin/kill ] || missing="$missing procps"
	want promtool prometheus
	want chromium chromium
	# Containers, which scripts/test.sh leaves out for users who are not root.
	if [ "$(id -u)" = 0 ]; then
		want containerd containerd
		want runc runc
		want podman podman
		# It kills the daemon at its n-th call of a kind.
		want strace strace
		# The applet is a static program, so that it runs in an otherwise empty root file system.
		busybox=$(command -v busybox || true)
		if [ -z "$busybox" ] || ldd "$busybox" >/dev/null 2>&1; then missing="$missing busybox-static"; fi
	fi
	;;
*)
	echo "usage: $0 lab|test" >&2
	exit 2
	;;
esac
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "installing:$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# shellcheck disable=SC2086 # one argument for each package
	apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
	echo "missing Debian packages:$missing" >&2
	echo "install them, or run this as root: apt-get install$missing" >&2
	exit 1
fi
