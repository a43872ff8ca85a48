#!/bin/sh
# The same cluster as a user without rights gets it: several nodes on one host.
set -u
if [ "$(id -u)" != 0 ]; then
    echo '1..0 # SKIP tests/slurm/cluster.t has run without rights already'
    exit
fi
nobody=$(id -u nobody)
if ! setpriv --reuid="$nobody" --regid="$nobody" --clear-groups test -r "$CAIRN_SOURCE/tests/slurm/cluster.t"; then
    echo "1..0 # SKIP the user nobody may not read $CAIRN_SOURCE"
    exit
fi
exec setpriv --reuid="$nobody" --regid="$nobody" --clear-groups env -u TMPDIR HOME=/tmp sh "$CAIRN_SOURCE/tests/slurm/cluster.t"
