# The first process of a node that is its own host: node-init.sh STATE NODE ADDRESS
# Runs as process 1 of fresh network, process, mount, hostname and IPC namespaces. When it dies the
# kernel kills every other process of the node, as losing power does.

set -eu
state=$1
node=$2
address=$3

hostname "$node"
mount -t proc proc /proc
mount -t tmpfs -o mode=755 local "$state/local"
mkdir -p "$state/local/spool" "$state/local/cgroup"
mkdir -m 1777 "$state/local/tmp"
mount -t tmpfs -o mode=1777 shm /dev/shm
mount --bind "$state/conf/hosts" /etc/hosts

# A fresh /sys shows this node's network interfaces (UCX looks for them there); the cgroup mounts
# below it, without which slurmd does not start, are carried over.
if [ -d /sys/fs/cgroup ]; then
    mount --rbind /sys/fs/cgroup "$state/local/cgroup"
    mount -t sysfs sysfs /sys
    mount --rbind "$state/local/cgroup" /sys/fs/cgroup
    umount -l "$state/local/cgroup"
else
    mount -t sysfs sysfs /sys
fi

ip link set lo up
tries=0
until ip link show dev eth0 >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 200 ] || { echo "$node: eth0 was not plugged in" >&2; exit 1; }
    sleep 0.05
done
ip addr add "$address/24" dev eth0
ip link set eth0 up

# -b: tell slurmctld that this is a fresh boot. This shell stays, to reap the step daemons, which
# slurmd hands over to process 1.
slurmd -D -b -N "$node" -f "$state/conf/slurm.conf" &
wait $!
