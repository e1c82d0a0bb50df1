#!/usr/bin/env bash
# The zabbix sink and `callbackd zabbix apply` against a real Zabbix: the tests in tests/it/real_zabbix*.rs.
#
# Needs root; see zabbix-run.sh for what it installs and starts.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
# One after the other: Zabbix itself fails where two make their first objects of a kind at once.
# Built first: Zabbix is not kept waiting for that.
cargo test --locked --test it --no-run
said=$("$here/zabbix-run.sh" cargo test --locked --test it -- --ignored --test-threads=1 real_zabbix | tee >(cat >&2))
# A filter that matches nothing passes as well.
grep -q 'test result: ok\. [1-9][0-9]* passed' <<<"$said" || { echo "zabbix.sh: no test ran" >&2; exit 1; }
