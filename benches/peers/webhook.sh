#!/bin/sh
# What Debian's `webhook` runs for each callback: keeps its body in a file of its own, synced with its folder; posts it on;
# and forgets it once the sink has it. SPOOL and SINK are in the environment. What fails stays in SPOOL: nobody tries again.
set -eu
file=$(mktemp "$SPOOL/XXXXXXXXXX")
printf %s "$1" >"$file"
sync "$file" "$SPOOL"
curl -sS --fail --max-time 30 -o /dev/null --data-binary @"$file" "$SINK"
rm "$file"
