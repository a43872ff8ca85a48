#!/bin/sh
# The private cluster itself: it starts, loses a node and slurmctld, gets them back, and leaves nothing.
set -u
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
. "$CAIRN_SOURCE/tests/slurm/tap_cluster.sh"

fails() { ! "$@"; }

# says TEXT COMMAND...: the command fails and says TEXT.
says() {
    text=$1
    shift
    if said=$("$@" 2>&1); then
        echo "did not fail"
        return 1
    fi
    echo "$said"
    case $said in
        *"$text"*) return 0 ;;
    esac
    return 1
}

srun() { timeout -k 5 60 "$cluster" run srun --mpi=none "$@"; }

distinct_hosts() {
    if [ "$(id -u)" = 0 ]; then
        lines=$(srun -N4 -n4 hostname) || return 1
    else
        lines=$(srun -N4 -n4 printenv SLURMD_NODENAME) || return 1
    fi
    echo "$lines"
    [ "$(echo "$lines" | sort | tr '\n' ' ')" = 'node1 node2 node3 node4 ' ]
}

# An allocation of all nodes that outlives the loss of one.
allocate() {
    job=$("$cluster" run sbatch --parsable --no-kill -N4 -o /dev/null --wrap 'sleep 600') || return 1
    echo "$job" >"$CAIRN_CLUSTER.job"
    for try in $(seq 100); do
        [ "$("$cluster" run squeue -h -j "$job" -o %T)" = RUNNING ] && return 0
        sleep 0.1
    done
    return 1
}

# Two signals: srun, told to end, waits KillWait for a step on a dead node.
probe() {
    timeout -k 1 4 "$cluster" run srun --jobid="$(cat "$CAIRN_CLUSTER.job")" --overlap --mpi=none \
        --immediate=3 -N1 -n1 -w "$1" true
}

step_without() {
    timeout -k 1 10 "$cluster" run srun --jobid="$(cat "$CAIRN_CLUSTER.job")" --overlap --mpi=none \
        --exclude="$1" -N3 -n3 true
}

# A step on node2 alone; the length of its sleep is its name.
task=$((100000 + $$))
task_runs() { pgrep -x -f "([^ ]*/)?sleep $task" >/dev/null; } # not the srun that waits for it
task_starts() {
    "$cluster" run srun --jobid="$(cat "$CAIRN_CLUSTER.job")" --overlap --mpi=none -N1 -n1 -w node2 sleep $task >/dev/null 2>&1 &
    for try in $(seq 100); do
        task_runs && return 0
        sleep 0.1
    done
    return 1
}

give_back() { "$cluster" run scancel "$(cat "$CAIRN_CLUSTER.job")"; }

sixty_four_ranks() {
    [ "$(srun -N4 --ntasks-per-node=16 echo x | wc -l)" = 64 ]
}

idle_again() {
    for try in $(seq 300); do
        [ "$("$cluster" run sinfo -h -p main -t idle -o %D)" = 4 ] && return 0
        sleep 0.1
    done
    "$cluster" status
    return 1
}

# slurmctld writes its state down within 5 s of a change; what is written survives it.
job_survives_ctld() {
    id=$("$cluster" run sbatch --parsable --hold -o /dev/null --wrap true) || return 1
    : >"$CAIRN_CLUSTER/submitted"
    for try in $(seq 150); do
        [ -z "$(find "$CAIRN_CLUSTER/ctld/job_state" -newer "$CAIRN_CLUSTER/submitted")" ] || break
        sleep 0.1
    done
    "$cluster" ctld off || return 1
    fails timeout 3 "$cluster" run scontrol ping || return 1
    "$cluster" ctld on || return 1
    [ "$("$cluster" run squeue -h -j "$id" -o %T)" = PENDING ] && "$cluster" run scancel "$id"
}

# What a power cut must take with it. Only a node that is its own host has a memory of its own.
leave_file() {
    [ "$(id -u)" = 0 ] || return 0
    srun -N1 -n1 -w node2 sh -c ': >/dev/shm/cairn-t' && [ ! -e /dev/shm/cairn-t ]
}

memory_is_fresh() {
    [ "$(id -u)" = 0 ] || return 0
    [ "$(srun -N1 -n1 -w node2 sh -c 'ls /dev/shm')" = '' ]
}

check 'nothing is there before' "$cluster" check-clean
check 'status says that there is no cluster' says 'no cluster in' "$cluster" status
check 'a bad number of nodes is refused' says '1 to 60' "$cluster" up --nodes none
check 'up' "$cluster" up
check 'up refuses a second time' says 'there already' "$cluster" up
check 'check-clean sees the cluster' says 'process' "$cluster" check-clean
check 'srun reaches four hosts' distinct_hosts
check '64 tasks start' sixty_four_ranks
check 'a node gets a file in its memory' leave_file
check 'an allocation of four nodes' allocate
check 'the probe passes on a healthy node' probe node2
check 'a task starts on it' task_starts
check 'off' "$cluster" off node2
check 'the task is gone with it' fails task_runs
check 'off refuses a second time' says 'off already' "$cluster" off node2
check 'an unknown node is refused' says "no node 'node9'" "$cluster" off node9
check 'the probe fails on the dead node' fails probe node2
check 'the probe passes on another' probe node3
check 'a step starts on the other three' step_without node2
check 'on' "$cluster" on node2
check 'the allocation ends' give_back
check 'all nodes become idle' idle_again
check 'the booted node starts with empty memory' memory_is_fresh
check 'a job survives the death of slurmctld' job_survives_ctld
check 'all nodes become idle after it' idle_again
check 'down' "$cluster" down
check 'nothing is left' "$cluster" check-clean
check 'down again does nothing' "$cluster" down
finish
