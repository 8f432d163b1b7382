#!/bin/sh
# Installs, upgrades, rolls back and uninstalls: finds a Python that is new enough, the rest is
# install.py beside this file. Usage: install.sh install|rollback|uninstall [OPTIONS], or --help.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
for python in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3}; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
        exec "$python" "$here/install.py" "$@"
    fi
done
echo "install: ${PYTHON:-python3} is not Python 3.11 or later: install it (Debian 12:" \
    "apt install python3.11 python3.11-venv), or name one, as in PYTHON=/usr/local/bin/python3.12" >&2
exit 1
