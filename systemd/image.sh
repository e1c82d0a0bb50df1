#!/usr/bin/env bash
# Makes the image that Containerfile describes of a static callbackd:
#
#   image.sh BINARY ARCHIVE      ARCHIVE: a file that `podman load`, `docker load` or `skopeo copy oci-archive:…` take
#
# Needs buildah, and nothing from a registry. The same program makes the same image: every date is SOURCE_DATE_EPOCH.
set -euo pipefail
binary=$(realpath "$1")
archive=$(realpath -m "$2")
cd "$(dirname "$0")/.."
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
certificates=/etc/ssl/certs/ca-certificates.crt
[[ -e $certificates ]] || { echo "image.sh: no $certificates; install ca-certificates" >&2; exit 1; }
if readelf --wide --program-headers "$binary" | grep -q INTERP; then
  echo "image.sh: $binary is not static" >&2
  exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
install -D -m 755 "$binary" "$work/image/files/usr/bin/callbackd"
install -D -m 644 "$certificates" "$work/image/files$certificates"
install -D -m 644 config/container.toml "$work/image/files/etc/callbackd/callbackd.toml"
install -d -m 755 "$work/image/files/var/lib"
install -d -m 700 "$work/image/state/callbackd"
cat >"$work/storage.conf" <<CONF
[storage]
driver = "vfs"
graphroot = "$work/graph"
runroot = "$work/run"
CONF
export CONTAINERS_STORAGE_CONF=$work/storage.conf
buildah bud --quiet --isolation chroot --format oci --timestamp "$epoch" -f Containerfile -t callbackd "$work/image"
rm -f "$archive"
buildah push --quiet callbackd "oci-archive:$archive:callbackd:latest"
echo "$archive"
