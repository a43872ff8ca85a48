# munged and slurmctld of a cluster. Sourced by ../cluster.

# One munged serves all nodes: they share the file system, so its socket too. --force, since the
# state folder may lie in a folder of another user's; the key itself is made readable by us alone.
munged_start() {
    (umask 077 && dd if=/dev/urandom of="$state/munge/key" bs=1024 count=1 2>/dev/null) || return 1
    daemon_start munged CAIRN_CLUSTER_PART=munged munged --foreground --force \
        --key-file="$state/munge/key" --socket="$state/munge/socket" --pid-file="$state/munge/pid" \
        --seed-file="$state/munge/seed" --log-file="$state/log/munged.log" --num-threads=2
    wait_until 10 munged_answers
}

munged_answers() {
    echo | munge --socket="$state/munge/socket" --output=/dev/null
}

# NoCtldInAddrAny makes slurmctld listen at the address of this host's name alone; in its own mount
# namespace that name is the address on the private network.
ctld_start() {
    if [ "$mode" = hosts ]; then
        daemon_start slurmctld CAIRN_CLUSTER_PART=slurmctld unshare --mount sh -c \
            'mount --bind "$1/hosts" /etc/hosts && exec slurmctld -D -f "$1/slurm.conf"' \
            sh "$state/conf"
    else
        daemon_start slurmctld CAIRN_CLUSTER_PART=slurmctld slurmctld -D -f "$state/conf/slurm.conf"
    fi
    wait_until 15 ctld_answers_or_died && ctld_is_up
}

ctld_answers_or_died() {
    ctld_is_up || ! daemon_is_up slurmctld
}

ctld_is_up() {
    scontrol ping 2>/dev/null | grep -q 'is UP'
}

sinfo_line() {
    sinfo -h -N -p main -o '%N %T' 2>&1 | tr '\n' ',' | sed 's/,$//; s/,/, /g'
}

nodes_are_idle() {
    for node in "$@"; do
        [ "$(sinfo -h -N -p main -n "$node" -o %T)" = idle ] || return 1
    done
}

nodes_are_idle_or_died() {
    for node in "$@"; do
        node_is_up "$node" || return 0
    done
    nodes_are_idle "$@"
}

nodes_wait_idle() {
    wait_until 30 nodes_are_idle_or_died "$@" && nodes_are_idle "$@"
}

# As slurmctld does by itself once SlurmdTimeout is over; it then lets go of the node's jobs.
node_declare_down() {
    ! ctld_is_up || scontrol update "nodename=$1" state=down reason='its power was cut'
}

node_is_back() {
    case $(sinfo -h -N -p main -n "$1" -o %T) in
        idle | mixed | allocated | completing) return 0 ;;
    esac
    return 1
}

# ReturnToService=2 takes a booted node back by itself, unless an admin or a failed boot has set it
# down; then do what an admin does.
nodes_wait_back() {
    wait_until 5 node_is_back "$1" && return 0
    scontrol update "nodename=$1" state=resume 2>/dev/null
    wait_until 15 node_is_back "$1"
}
