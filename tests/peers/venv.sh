# Sourced. `in_venv NAME REQUIREMENT…` installs these with pip, once, into $CALLBACKD_TEST_CACHE/NAME, by default below
# target/tools, and sets $venv. Where Python has no venv, it is installed first, which needs root.
in_venv() {
  local top
  top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
  venv=${CALLBACKD_TEST_CACHE:-$top/target/tools}/$1
  shift
  if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    [[ $(id -u) == 0 ]] || { echo "Python has no venv; run as root: apt-get install python3-venv" >&2; exit 1; }
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv; } \
      >&2 </dev/null
  fi
  mkdir -p "$(dirname "$venv")"
  exec 9>"$venv.lock"
  flock 9
  if [[ ! -e $venv/ready ]]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "$@" >&2 </dev/null
    touch "$venv/ready"
  fi
  flock -u 9
}
