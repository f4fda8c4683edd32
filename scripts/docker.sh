#!/bin/sh
# Builds the image of deploy/Dockerfile with the container engine that is there.
#   usage: docker.sh [TAG]
set -eu
cd "$(dirname "$0")/.."

tag=${1:-vpc-ipam:latest}
for engine in podman buildah docker; do
	command -v "$engine" >/dev/null 2>&1 || continue
	case $engine in
	docker) docker info >/dev/null 2>&1 || continue ;;
	esac
	exec "$engine" build --file deploy/Dockerfile --tag "$tag" .
done
echo 'no container engine works here: install podman or buildah, or start the daemon of docker' >&2
exit 1
