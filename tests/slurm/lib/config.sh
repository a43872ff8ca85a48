# The state folder of a cluster and the files in it. Sourced by ../cluster.
#
#   .cairn-cluster   says that this folder is ours to remove
#   cluster.env      what `up` chose, as shell variables
#   conf/            slurm.conf, cgroup.conf, hosts
#   munge/ ctld/     key and socket of munged; slurmctld's saved state
#   log/ run/        a log and a process id for each daemon
#   local/           a node's own spool and TmpFS (hosts mode: an empty mount point on this host)

# state_find OPTION: sets $state, and all that follows from its name alone.
state_find() {
    state=${1:-${CAIRN_CLUSTER:-${TMPDIR:-/tmp}/cairn-cluster-$(id -u)}}
    case $state in
        *[!A-Za-z0-9._/+@-]*) usage_error "'$state': only letters, digits and ._+@- in a state folder's path" ;;
    esac
    state=$(realpath -m "$state")
    case $state in
        / | /tmp | /dev/shm/*) usage_error "$state cannot be a state folder" ;; # a node hides /dev/shm
    esac
    # 107 bytes is the most that the path of a Unix socket may have; PMIx and step daemons add 40.
    [ ${#state} -le 60 ] || usage_error "$state: over 60 characters is too long, sockets live below it"
    state_hash=$(printf %s "$state" | cksum | cut -d' ' -f1)
    interface=$(printf 'cairn%06x' $((state_hash % 16777216)))
    mode=hosts
    [ "$(id -u)" = 0 ] || mode=ports
}

config_load() {
    [ -r "$state/cluster.env" ] || fail "no cluster in $state; 'cluster up' starts one"
    . "$state/cluster.env"
    export SLURM_CONF="$state/conf/slurm.conf"
}

node_names() {
    seq -f 'node%.0f' 1 "$nodes"
}

node_check() {
    node_names | grep -qxF -e "$1" || fail "no node '$1'; there are: $(node_names | tr '\n' ' ')"
}

# config_make NODES CPUS: the folder, the choice of addresses, the configuration files.
config_make() {
    nodes=$1
    cpus=$2
    [ ! -d "$state" ] || [ -e "$state/.cairn-cluster" ] || rmdir "$state" 2>/dev/null ||
        fail "$state is there and is not a cluster's state folder"
    cluster_remove
    mkdir -p "$state" && : >"$state/.cairn-cluster" || return 1
    (cd "$state" && mkdir -p conf munge ctld log run local) || return 1
    chmod 755 "$state" "$state/conf" "$state/munge" "$state/local" && chmod 700 "$state/ctld"
    # One at a time on this machine looks for free addresses; held until they are in use.
    exec 9<"${TMPDIR:-/tmp}"
    flock 9
    if [ "$mode" = hosts ]; then
        subnet_choose || return 1
    else
        ports_choose || return 1
    fi
    for variable in mode nodes cpus subnet base_port; do
        eval "echo \"$variable=\${$variable:-}\""
    done >"$state/cluster.env"
    config_write_slurm >"$state/conf/slurm.conf"
    echo 'CgroupMountpoint=/sys/fs/cgroup' >"$state/conf/cgroup.conf"
    config_write_hosts >"$state/conf/hosts"
    export SLURM_CONF="$state/conf/slurm.conf"
}

# 198.18.0.0/15 is set aside for tests of networks (RFC 2544): nobody's real network is there.
subnet_choose() {
    for try in $(seq 0 511); do
        number=$(((state_hash + try) % 512))
        subnet=198.$((18 + number / 256)).$((number % 256))
        ip -4 -o addr show | grep -qF " $subnet." || return 0
    done
    return 1
}

# Below 32768, where Linux starts to hand out ports by itself.
ports_choose() {
    for try in $(seq 0 159); do
        base_port=$((20000 + (state_hash + try) % 160 * 64))
        ports_are_free $(seq "$base_port" $((base_port + nodes))) && return 0
    done
    return 1
}

ports_are_free() {
    for port in "$@"; do
        ! grep -qi "$(printf ':%04x [0-9A-F]*:0000 0A' "$port")" /proc/net/tcp /proc/net/tcp6 || return 1
    done
}

node_address() {
    if [ "$mode" = hosts ]; then
        echo "$subnet.${1#node}"
    else
        echo 127.0.0.1
    fi
}

login_address() {
    if [ "$mode" = hosts ]; then
        echo "$subnet.254"
    else
        echo 127.0.0.1
    fi
}

# The names as the nodes see them: those of this host, and the nodes.
config_write_hosts() {
    echo "127.0.0.1 localhost"
    echo "$(login_address) $(hostname -s) login"
    for node in $(node_names); do
        echo "$(node_address "$node") $node"
    done
}

# cred_expire is also the time a requeued job must wait before it starts again (slurm.conf(5)); at
# 20 s a step's launch on a busy machine still fits in. A site has 120.
config_write_slurm() {
    memory=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 1024 / nodes))
    user=$(id -un)
    if [ "$mode" = hosts ]; then
        port=6817
        spool=$state/local/spool
        tmpfs=$state/local/tmp
        bind=CommunicationParameters=NoCtldInAddrAny
    else
        port=$base_port
        spool=$state/local/%n/spool
        tmpfs=$state/local/%n/tmp
        bind=
    fi
    cat <<CONF
ClusterName=$interface
SlurmctldHost=$(hostname -s)($(login_address))
SlurmctldPort=$port
$bind
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$state/munge/socket,cred_expire=20
StateSaveLocation=$state/ctld
SlurmctldPidFile=$state/run/slurmctld.own.pid
SlurmdPidFile=$state/run/%n.own.pid
SlurmdSpoolDir=$spool
TmpFS=$tmpfs

# What a site has: a dead node is noticed after two minutes. Recovery must not depend on less.
SlurmctldTimeout=120
SlurmdTimeout=120
InactiveLimit=0
# A site has 30; it is waited for only by what ignores SIGTERM.
KillWait=10
MinJobAge=3600
ReturnToService=2
# Each time over in a requeued job's output, as at most sites.
JobFileAppend=1
JobRequeue=1

# cons_tres counts CPUs, task/none pins nobody: see 'cluster up --help' on CPUs that are not there.
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
TaskPlugin=task/none
ProctrackType=proctrack/linuxproc
MpiDefault=pmix
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none

# Quick scheduling: a site looks every 30 to 60 s.
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=1
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
SlurmdDebug=info
SlurmctldDebug=info

CONF
    for node in $(node_names); do
        if [ "$mode" = hosts ]; then
            node_port=6818
        else
            node_port=$((base_port + ${node#node}))
        fi
        echo "NodeName=$node NodeAddr=$(node_address "$node") Port=$node_port CPUs=$cpus RealMemory=$memory"
    done
    # A job in main that must make room is told so with SIGTERM, GraceTime before its end.
    cat <<CONF

PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
CONF
}
