#!/bin/sh
# Makes a Python environment with the doubles and clients of EC2 that tests talk to.
#   usage: venv.sh FOLDER
set -eu

folder=$1
packages='moto[ec2,server]==5.2.5 boto3==1.44.5 jsonschema==4.26.0 websocket-client==1.9.2 grpcio==1.85.1 grpcio-tools==1.85.1'
stamp="$folder/packages"
[ -x "$folder/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$packages" ] && exit 0

echo "installing into $folder: $packages"
if ! python3 -m venv --clear "$folder" 2>/dev/null; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
		apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
		python3 -m venv --clear "$folder"
	else
		echo 'python3 has no venv module: apt-get install python3-venv' >&2
		exit 1
	fi
fi
# shellcheck disable=SC2086 # one argument for each package
"$folder/bin/pip" install --quiet --disable-pip-version-check $packages
echo "$packages" >"$stamp"
