#!/bin/sh
# Checks the example configuration and the alert rules, and runs the rules' unit tests.
# Usage: deploy/prometheus/check.sh [DIRECTORY]; promtool is on PATH, or PROMTOOL names it.
set -eu

cd "${1:-$(dirname "$0")}"
promtool=${PROMTOOL:-promtool}
if ! command -v "$promtool" >/dev/null; then
    echo "promtool is not installed: it is in the package prometheus" >&2
    exit 1
fi
"$promtool" check config prometheus.yml
"$promtool" check rules quantum-ai-engine.rules.yml
"$promtool" test rules quantum-ai-engine.rules_test.yml
