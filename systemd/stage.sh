#!/usr/bin/env bash
# What the packages hold beside files of this folder, made by a built callbackd and from CHANGELOG.md:
#
#   stage.sh BINARY FOLDER      as target/release/package, where Cargo.toml looks for it
#
# The same for the same sources: every date is SOURCE_DATE_EPOCH, or the last commit's.
set -euo pipefail
binary=$(realpath "$1")
cd "$(dirname "$0")/.."
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
rm -rf "$2"
mkdir -p "$2/man"
cd "$2"
"$binary" man --dir man
gzip -9n man/*.1
"$binary" completions bash >callbackd.bash
"$binary" completions zsh >_callbackd
"$binary" completions fish >callbackd.fish
gzip -9nc "$OLDPWD/CHANGELOG.md" >changelog.gz
version=$("$binary" --version)
gzip -9n >changelog.Debian.gz <<TEXT
callbackd (${version##* }-${REVISION:-1}) stable; urgency=medium

  * See changelog.gz.

 -- $MAINTAINER  $(LC_ALL=C date -u -R -d "@$epoch")
TEXT
find . -exec touch -h -d "@$epoch" {} +
