#!/bin/sh
# Checkpoints until the disk is full, on a small one: every rank is told, what is there stays. The disk is a tmpfs in a mount
# namespace of its own and goes with it.
small=$(mktemp -d "${TMPDIR:-/tmp}/cairn-small-XXXXXX") || exit 99
trap 'rmdir "$small"' EXIT
user=
[ "$(id -u)" -eq 0 ] || user=--map-root-user
if ! why=$(unshare $user --mount mount -t tmpfs -o size=1m none "$small" 2>&1); then
    echo "1..0 # SKIP no mount namespace here: $why"
    exit 0
fi
CAIRN_TEST_SMALL_DISK=$small timeout -k 5 100 unshare $user --mount sh -c \
    'mount -t tmpfs -o size=24m none "$1" && "$2" -n 4 "$3"' - "$small" "$MPIEXEC" "$CAIRN_BUILD/tests/ranks/checkpoint.ranks"
