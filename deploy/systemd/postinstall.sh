#!/bin/sh
# After the package is unpacked: the user, and the files of settings for it alone. Nothing is started: topostream needs
# a database first.
set -e
systemd-sysusers topostream.conf
chgrp topostream /etc/topostream
for file in /etc/topostream/topostream.env /etc/topostream/topostream-mutator.env; do
  if [ -e "$file" ]; then chgrp topostream "$file"; fi # dpkg does not bring back one that was removed
done
chmod 0750 /etc/topostream
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
