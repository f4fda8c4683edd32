#!/bin/sh
# Prints the resident memory of vpc-ipamd on a node in a box, at rest with as many pods as an m5.large takes.
#   usage: memory.sh FOLDER    the folder with the programs, by default target/dist
set -eu
cd "$(dirname "$0")/.."

folder=$(realpath "${1:-target/dist}")
pods=27
name=mem$$
work=$(mktemp -d)
up='' daemon=''
finish() {
	[ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
	[ -z "$up" ] || { kill "$up" 2>/dev/null && wait "$up"; } || true
	rm -rf "$work"
}
trap finish EXIT

"$folder/vpc-ipam" lab up --name "$name" --wire --no-daemon --json >"$work/ready" 2>"$work/lab.log" &
up=$!
tries=0
until [ -s "$work/ready" ]; do
	tries=$((tries + 1))
	[ "$tries" -lt 100 ] && kill -0 "$up" || { cat "$work/lab.log" >&2; exit 1; }
	sleep 0.1
done
value() { python3 -c "import json; print(json.load(open('$work/ready'))['$1'])"; }
socket=$(value socket)
# EC2 and the metadata service are in the node's namespace. `lab exec` becomes the program, whose process id this is then.
AWS_EC2_METADATA_DISABLED=true AWS_ACCESS_KEY_ID=lab AWS_SECRET_ACCESS_KEY=lab \
	"$folder/vpc-ipam" lab exec --name "$name" node -- \
	"$folder/vpc-ipamd" --socket "$socket" --state "${socket%/*}/state.redb" \
	--ec2-endpoint "$(value ec2_endpoint)" --imds-endpoint "$(value imds_endpoint)" --region lab-1 2>"$work/daemon.log" &
daemon=$!
tries=0
until [ -S "$socket" ]; do
	tries=$((tries + 1))
	[ "$tries" -lt 100 ] && kill -0 "$daemon" || { cat "$work/daemon.log" >&2; exit 1; }
	sleep 0.1
done
n=1
while [ "$n" -le "$pods" ]; do
	"$folder/vpc-ipam" lab pod add --name "$name" "pod$n" >/dev/null
	n=$((n + 1))
done
sleep 2
awk -v pods="$pods" '/^VmRSS/ { printf "vpc-ipamd with %d pods: %.1f MiB resident", pods, $2 / 1024 }
	/^RssAnon/ { printf ", of which %.1f MiB its own", $2 / 1024 }
	END { print " (amazon-vpc-cni-k8s: 40 to 64 MiB)" }' "/proc/$daemon/status"
