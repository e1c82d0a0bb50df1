#!/usr/bin/env bash
# The packages: the .deb on a real systemd, from its installation over upgrades under load to its purge, and by Debian's
# own judge (lintian); the .rpm by what rpm reads in it, and there as well.
#
#   packages.sh [DEB [RPM]]      by default what `make deb` and `make rpm` have made
#
# Prints one `ok - …` line for each thing that holds. Needs root; see systemd-run.sh for what it installs. What happens
# in the container stands in in-package.py.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
deb=${1:-$top/target/packages/callbackd.deb}
rpm=${2:-$top/target/packages/callbackd.rpm}
for file in "$deb" "$rpm"; do
  [[ -e $file ]] || { echo "packages.sh: no package at $file; run \`make deb rpm\` first" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ok() { echo "ok - $*"; }
fail() { echo "not ok - $*"; exit 1; }

# --- how they are built ----------------------------------------------------------------------------------------------
# Told, not done: one release is built for all that follows.
for target in deb rpm image; do
  built() { env -u MAKEFLAGS -u MAKELEVEL -u FEATURES make --no-print-directory -nC "$top" "$target" "$@" | grep '^cargo build '; }
  built FEATURES=postgres | grep -q -- ' --features postgres ' || fail "make $target FEATURES=postgres builds without it"
  if built | grep -q -- '--features'; then fail "make $target builds with a feature that nobody named"; fi
done
ok "FEATURES says what packages and image are built with"

# --- the .rpm --------------------------------------------------------------------------------------------------------
rpm -K --nosignature "$rpm" >"$work/digests" 2>&1 || fail "the digests of the .rpm: $(cat "$work/digests")"
rpm -qp --scripts "$rpm" >"$work/scripts"
for script in postinstall preuninstall postuninstall; do
  grep -q "^$script scriptlet (using /bin/sh)" "$work/scripts" || fail "the .rpm has no $script"
done
[[ $(rpm -qp --configfiles "$rpm") == /etc/callbackd/callbackd.toml ]] || fail "the configuration files of the .rpm"
# rpm's own word for it: 1 is a configuration, 16 one that is not replaced.
[[ $(rpm -qp --qf '[%{FILENAMES} %{FILEFLAGS}\n]' "$rpm" | grep '^/etc/') == "/etc/callbackd/callbackd.toml 17" ]] ||
  fail "the .rpm would replace a configuration"
mkdir "$work/root"
rpm --root "$work/root" --initdb
rpm --root "$work/root" -i --nodeps --noscripts "$rpm" 2>"$work/errors" || fail "rpm -i: $(cat "$work/errors")"
rpm --root "$work/root" -V --nodeps callbackd >"$work/errors" || fail "rpm -V: $(cat "$work/errors")"
ok "the .rpm is sound, has its scripts, and a configuration that is not replaced"

# A .deb and a .rpm hold the same files, but for where each distribution wants some.
contents() { sed -E 's|^\./|/|; s|/vendor-completions/|/site-functions/|' | grep -vE '/$|/doc/|/licenses/' | sort; }
dpkg-deb --fsys-tarfile "$deb" | tar -t | contents >"$work/deb"
rpm -qlp "$rpm" | contents >"$work/rpm"
diff "$work/deb" "$work/rpm" || fail "the .deb (<) and the .rpm (>) hold different files"
ok "the .deb and the .rpm hold the same $(wc -l <"$work/deb") files"

# --- the .deb --------------------------------------------------------------------------------------------------------
# Who built it says who they are, and what is closed by a first upload to Debian is none of ours.
lintian --allow-root --fail-on error,warning --suppress-tags \
  bogus-mail-host,bogus-mail-host-in-debian-changelog,initial-upload-closes-no-bugs "$deb" || fail "lintian"
ok "lintian finds neither error nor warning"

# The same once more, newer, and with another unit.
dpkg-deb --raw-extract "$deb" "$work/second"
sed -i -E 's/^(Version: .*)$/\1.1/' "$work/second/DEBIAN/control"
sed -i 's/^Description=.*/& (exchanged)/' "$work/second/usr/lib/systemd/system/callbackd.service"
dpkg-deb --root-owner-group -Znone --build "$work/second" "$work/second.deb" >/dev/null
export SYSTEMD_RUN_SECONDS=900
"$here/systemd-run.sh" "$here/in-package.py" "$deb:/opt/first.deb" "$work/second.deb:/opt/second.deb" \
  "$rpm:/opt/callbackd.rpm" "$top/benches/callback.xml:/opt/callback.xml"
