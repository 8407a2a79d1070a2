#!/bin/sh
# After the package's files are removed: systemd forgets its units. dpkg keeps the settings until a purge. The user
# stays.
set -e
if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
