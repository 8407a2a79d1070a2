#!/bin/sh
# After the package is removed: systemd forgets its units. The settings and the user stay.
set -e
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
