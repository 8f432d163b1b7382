#!/bin/sh
# Checks the units without installing them: each must verify in silence, and each service score at
# most 1.0. Usage: deploy/systemd/check.sh [UNIT…]
set -eu

limit=10 # in tenths; README.md says what the rest consists of
here=$(dirname "$0")
[ $# -gt 0 ] || set -- "$here/quantum-ai-engine.service" "$here/quantum-ai-engine@.service" \
    "$here/quantum-ai-engine.slice" "$here/quantum-ai-engine.socket"

copies=$(mktemp -d)
trap 'rm -rf "$copies"' EXIT
for unit in "$@"; do
    name=$(basename "$unit" | sed 's|@\.|@0-3.|') # of a template, an instance
    # The program is not installed where this runs, and `verify` asks for it.
    sed 's|/opt/quantum-ai-engine/bin/quantum-ai-engine|/bin/true|' "$unit" > "$copies/$name"

    # `verify` exits 0 on settings that it ignores, but it says so.
    said=$(systemd-analyze verify --man=no "$copies/$name" 2>&1) || said="$said (failed)"
    if [ -n "$said" ]; then
        echo "systemd-analyze verify: $said" >&2
        exit 1
    fi

    case $name in *.slice | *.socket) continue ;; esac
    if ! report=$(systemd-analyze security --no-pager --offline=true --threshold=$limit \
        "$copies/$name" 2>&1); then
        echo "$report" >&2
        echo "The exposure of $name is above 1.0, or could not be determined." >&2
        exit 1
    fi
    echo "$report" | tail -n 1
done
