#!/bin/sh
# Before the package is removed: what runs is stopped, and starts no more at boot. An upgrade stops nothing.
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  systemctl disable --now topostream-serve topostream-mutator
fi
