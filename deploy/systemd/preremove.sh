#!/bin/sh
# Before the package is removed: what runs is stopped, and starts no more at boot. An upgrade stops nothing. A unit that
# cannot be stopped, or a systemd that does not answer, keeps nobody from removing the package.
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  systemctl disable --now topostream-serve topostream-mutator || true
fi
