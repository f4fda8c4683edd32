#!/bin/sh
# Installs the programs on a node, or into the root file system of an image for nodes: the programs, the unit of systemd, an example
# of its file of variables, and last, so that the runtime finds a plugin that is there, the runtime's configuration.
#   usage: install-node.sh DIR [PROGRAMS]    into DIR, which is / for this node; PROGRAMS is target/dist by default
# All files are written beside their places first, and take them only when all are there. It may be run again at any time.
set -eu
sources=$(cd "$(dirname "$0")/.." && pwd)

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
	sed -n 's/^#   //p' "$0" >&2
	exit 2
fi
root=${1%/}
programs=${2:-$sources/target/dist}
fail() {
	echo "install-node: $*" >&2
	exit 1
}
[ -d "$root/" ] || fail "$1 is no folder"
for program in vpc-cni vpc-ipamd vpc-ipam; do
	[ -x "$programs/$program" ] || fail "$programs/$program is not there: make build"
done

# What is written and has yet to take its place.
staged=''
cleanup() {
	for place in $staged; do rm -f "$root/$place.new"; done
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

# stage FILE PLACE MODE
stage() {
	mkdir -p "$(dirname "$root/$2")" || fail "cannot make the folder of $root/$2"
	staged="$staged $2"
	cp "$1" "$root/$2.new" || fail "cannot write $root/$2: nothing was installed"
	chmod "$3" "$root/$2.new" || fail "cannot write $root/$2: nothing was installed"
}
# A file that the operator may have changed stays; the one of this version is put beside it where they differ.
stage_config() {
	if [ -e "$root/$2" ]; then
		cmp -s "$1" "$root/$2" && return
		stage "$1" "$2.dist" "$3"
		echo "install-node: $root/$2 differs from that of this version and stays as it is; compare $root/$2.dist" >&2
	else
		stage "$1" "$2" "$3"
	fi
}

conf=etc/cni/net.d
stage "$programs/vpc-ipamd" usr/bin/vpc-ipamd 0755
stage "$programs/vpc-ipam" usr/bin/vpc-ipam 0755
stage "$programs/vpc-cni" opt/cni/bin/vpc-cni 0755
staged="$staged opt/cni/bin/vpc-cni-ipam"
rm -f "$root/opt/cni/bin/vpc-cni-ipam.new"
ln -s vpc-cni "$root/opt/cni/bin/vpc-cni-ipam.new" || fail "cannot make $root/opt/cni/bin/vpc-cni-ipam: nothing was installed"
stage "$sources/deploy/vpc-ipamd.service" usr/lib/systemd/system/vpc-ipamd.service 0644
stage_config "$sources/deploy/vpc-ipamd.env" etc/vpc-ipam/vpc-ipamd.env 0600
stage_config "$sources/deploy/10-vpc-ipam.conflist" "$conf/10-vpc-ipam.conflist" 0644
# What is in no memory but the kernel's is not there after a power failure.
sync

for place in $staged; do
	mv -fT "$root/$place.new" "$root/$place" || fail "cannot put $root/$place in its place: run this again"
	echo "$root/$place"
done
staged=''

# The runtime takes the first by name.
for file in "$root/$conf"/*; do
	name=${file##*/}
	case $name in *.conf | *.conflist | *.json) ;; *) continue ;; esac
	first=$(printf '%s\n' "$name" 10-vpc-ipam.conflist | LC_ALL=C sort | head -n 1)
	if [ "$first" = "$name" ] && [ "$name" != 10-vpc-ipam.conflist ]; then
		echo "install-node: warning: $file sorts before 10-vpc-ipam.conflist, and the runtime takes the first: move it away" >&2
	fi
done
# The runtime looks for all plugins of a configuration in one folder, as a rule.
for plugin in $(sed -n 's/.*"type": *"\([^"]*\)".*/\1/p' "$root/$conf/10-vpc-ipam.conflist"); do
	[ -e "$root/opt/cni/bin/$plugin" ] || [ -e "$root/usr/lib/cni/$plugin" ] ||
		echo "install-node: warning: $conf/10-vpc-ipam.conflist names the plugin $plugin, which is in neither /opt/cni/bin nor /usr/lib/cni: install containernetworking-plugins" >&2
done
if [ -z "$root" ] && [ -d /run/systemd/system ]; then
	echo 'next: systemctl daemon-reload && systemctl enable vpc-ipamd && systemctl restart vpc-ipamd'
fi
