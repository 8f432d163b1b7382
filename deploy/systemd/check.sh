#!/bin/sh
# Checks the unit without installing it: it must verify in silence and score at most 1.0.
# Usage: deploy/systemd/check.sh [UNIT]
set -eu

unit=${1:-$(dirname "$0")/quantum-ai-engine.service}
limit=10 # in tenths; README.md says what the rest consists of

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
# The program is not installed where this runs, and `verify` asks for it.
sed 's|/opt/quantum-ai-engine/bin/quantum-ai-engine|/bin/true|' "$unit" > "$copy/quantum-ai-engine.service"

# `verify` exits 0 on settings that it ignores, but it says so.
said=$(systemd-analyze verify --man=no "$copy/quantum-ai-engine.service" 2>&1) || said="$said (failed)"
if [ -n "$said" ]; then
    echo "systemd-analyze verify: $said" >&2
    exit 1
fi

if ! report=$(systemd-analyze security --no-pager --offline=true --threshold=$limit "$unit" 2>&1); then
    echo "$report" >&2
    echo "The exposure is above 1.0, or could not be determined." >&2
    exit 1
fi
echo "$report" | tail -n 1
