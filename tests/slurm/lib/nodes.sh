# Booting a node and cutting its power. Sourced by ../cluster.
#
# hosts mode: the switch is a bridge in a network namespace of its own, so that no firewall rule of
# this host (Docker's, say) reaches the traffic between nodes. The one interface on this host,
# $interface, is its link to the switch. Namespaces live as long as their processes: nothing is
# mounted under /run/netns, and nothing is left when the processes are gone.

# in_switch COMMAND...: run it where the switch is.
in_switch() {
    nsenter --net="/proc/$(cat "$state/run/switch.pid")/ns/net" "$@" >>"$state/log/network.log" 2>&1
}

has_own_network() {
    ns=$(readlink "/proc/$1/ns/net") && [ -n "$ns" ] && [ "$ns" != "$(readlink /proc/self/ns/net)" ]
}

switch_start() {
    daemon_start switch CAIRN_CLUSTER_PART=switch unshare --net sleep infinity
    wait_until 5 has_own_network "$daemon_pid" || return 1
    {
        in_switch ip link add br0 type bridge &&
            in_switch ip link set br0 up &&
            ip link add "$interface" type veth peer name login netns "$daemon_pid" &&
            in_switch ip link set login master br0 up &&
            ip addr add "$subnet.254/24" dev "$interface" &&
            ip link set "$interface" up
    } >>"$state/log/network.log" 2>&1
}

switch_remove() {
    ip link del "$interface" 2>/dev/null
    wait_until 5 switch_is_gone
}

switch_is_gone() {
    ! ip link show dev "$interface" >/dev/null 2>&1
}

node_is_up() {
    daemon_is_up "$1"
}

node_boot() {
    if [ "$mode" = hosts ]; then
        node_boot_host "$1"
    else
        node_boot_ports "$1"
    fi
}

# The MAC address is the node's own, as a network card's is: the others' ARP tables stay true.
node_boot_host() {
    mac=$(printf '02:ca:%02x:%02x:00:%02x' $((state_hash / 256 % 256)) $((state_hash % 256)) "${1#node}")
    daemon_start "$1" "CAIRN_CLUSTER_NODE=$state:$1" \
        unshare --net --pid --fork --mount --uts --ipc --kill-child \
        sh "$lib/node-init.sh" "$state" "$1" "$(node_address "$1")"
    wait_until 5 has_own_network "$daemon_pid" || return 1
    in_switch ip link add "$1" type veth peer name eth0 address "$mac" netns "$daemon_pid" &&
        in_switch ip link set "$1" master br0 up
}

node_boot_ports() {
    rm -rf "$state/local/$1"
    mkdir -p "$state/local/$1/spool" "$state/local/$1/tmp" || return 1
    daemon_start "$1" "CAIRN_CLUSTER_NODE=$state:$1" slurmd -D -b -N "$1" -f "$state/conf/slurm.conf"
}

node_cut() {
    if [ "$mode" = hosts ]; then
        node_cut_host "$1"
    else
        node_cut_ports "$1"
    fi
}

# The link goes first: a kernel closes the connections of a killed process politely, and a host
# without power does not.
node_cut_host() {
    in_switch ip link set "$1" down || fail "$1's link does not go down"
    outer=$(cat "$state/run/$1.pid")
    kill -KILL $(cat "/proc/$outer/task/$outer/children")
    kill_marked "CAIRN_CLUSTER_NODE=$state:$1"
    in_switch ip link del "$1"
    rm -f "$state/run/$1.pid"
}

# The node's slurmd carries our mark; step daemons have written their title over it; tasks are their children.
node_cut_ports() {
    victims=$(marked "CAIRN_CLUSTER_NODE=$state:$1")
    kill -STOP $victims 2>/dev/null
    victims="$victims $(step_daemons "$1")"
    victims="$victims $(descendants $victims)"
    kill -KILL $victims 2>/dev/null
    kill_marked "CAIRN_CLUSTER_NODE=$state:$1"
    rm -f "$state/run/$1.pid"
}

# step_daemons NODE: stopped. Each listens on a socket in its node's spool folder.
step_daemons() {
    sockets=$(awk -v spool="$state/local/$1/spool/" 'index($8, spool) == 1 { print "socket:[" $7 "]" }' /proc/net/unix)
    [ -n "$sockets" ] || return 0
    for process in /proc/[0-9]*; do
        [ "$(cat "$process/comm" 2>/dev/null)" = slurmstepd ] || continue
        readlink "$process/fd/"* 2>/dev/null | grep -qxF -e "$sockets" || continue
        kill -STOP "${process#/proc/}" 2>/dev/null
        echo "${process#/proc/}"
    done
}

# descendants PID...: stopped on the way down, so that none slips away.
descendants() {
    for parent in "$@"; do
        for child in $(cat "/proc/$parent/task/"*/children 2>/dev/null); do
            kill -STOP "$child" 2>/dev/null
            echo "$child"
            descendants "$child"
        done
    done
}
