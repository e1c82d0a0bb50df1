#!/usr/bin/env bash
# The page in a real browser: Chromium without a screen, driven by puppeteer-core, looked at by axe-core.
#
#   page.sh [BINARY]      BINARY: a built callbackd, by default target/debug/callbackd
#
# Prints one `ok - …` line for each thing that holds, or what failed with the daemon's log. npm installs the two packages
# into $CALLBACKD_TEST_CACHE, by default target/tools. With PICTURES=1 the pictures in docs/ are made anew. What is checked
# stands in page.mjs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
binary=$(realpath -m "${1:-$top/target/debug/callbackd}")
puppeteer=24.43.1
axe=4.14.1
folder=${CALLBACKD_TEST_CACHE:-$top/target/tools}/page-$puppeteer-$axe
say() { echo "page.sh: $*" >&2; }
[[ -x $binary ]] || { say "no program at $binary; run \`cargo build\` first"; exit 1; }
for command in chromium node npm; do
  command -v "$command" >/dev/null || { say "no $command; run as root: apt-get install chromium nodejs npm"; exit 1; }
done

mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock"
flock 9
if [[ ! -e $folder/ready ]]; then
  rm -rf "$folder"
  mkdir "$folder"
  echo '{"private":true}' >"$folder/package.json"
  npm install --prefix "$folder" --no-audit --no-fund --ignore-scripts --loglevel=error --save-exact \
    "puppeteer-core@$puppeteer" "axe-core@$axe" >&2 </dev/null
  touch "$folder/ready"
fi
flock -u 9
exec node "$here/page.mjs" "$binary" "$folder" "$top"
