#!/bin/sh
# Runs a program as root of a user namespace of its own, with a network, a /run and mounts of its own.
#   usage: in-user-namespace.sh PROGRAM [ARGUMENTS]
set -eu
export PATH="$PATH:/usr/sbin:/sbin"
exec unshare --user --map-root-user --mount --net sh -ec '
	mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs /run
	# Whether programs can be shown the links of their namespace, as the lab shows them.
	unshare --mount mount -t sysfs sysfs /sys
	ip link set lo up
	exec "$@"' sh "$@"
