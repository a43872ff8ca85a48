# Messages, waiting, and finding our own processes. Sourced by ../cluster.

message() {
    echo "cluster: $*" >&2
}

fail() {
    message "$@"
    exit 1
}

usage_error() {
    message "$@"
    exit 2
}

is_number_in() {
    case $1 in
        '' | *[!0-9]* | ?????*) return 1 ;;
    esac
    [ "$1" -ge "$2" ] && [ "$1" -le "$3" ]
}

shell_quote() {
    printf "'%s'\n" "$(printf %s "$1" | sed "s/'/'\\\\''/g")"
}

show_log_end() {
    [ -s "$1" ] || return 0
    message "the last lines of $(basename "$1"):"
    tail -n 8 "$1" | sed 's/^/    /' >&2
}

# wait_until SECONDS COMMAND...: poll until it succeeds; fails when the time is over.
wait_until() {
    wait_end=$(($(date +%s) + $1))
    shift
    while ! "$@" 2>/dev/null; do
        [ "$(date +%s)" -lt "$wait_end" ] || return 1
        sleep 0.1
    done
}

# Slurm's and munge's daemons live in sbin, which is not on every user's path.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

need_tools() {
    for tool in munged slurmctld slurmd sinfo scontrol ip unshare nsenter setsid flock cksum; do
        command -v "$tool" >/dev/null ||
            fail "$tool is not installed; Debian's packages for it: tests/install-packages.sh"
    done
}

need_owner() {
    [ "$(id -u)" = "$(stat -c %u "$state")" ] ||
        fail "$1 needs root or the user who started the cluster"
}

# Every daemon of a cluster carries CAIRN_CLUSTER_DAEMON=STATE in its environment, and what it
# starts inherits that. A mark cannot be stale, as a file with a process id can.

# marked VARIABLE=VALUE: the ids of the processes that carry this mark.
marked() {
    grep -lszxF -e "$1" /proc/[0-9]*/environ | sed 's|^/proc/\([0-9]*\)/.*|\1|' | while read -r pid; do
        process_is_alive "$pid" && echo "$pid"
    done
}

process_is_alive() {
    case $(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) in
        '' | Z* | X*) return 1 ;;
    esac
}

none_marked() {
    [ -z "$(marked "$1")" ]
}

# kill_marked MARK: SIGKILL until none is left. Stopped first, so that none starts another meanwhile.
kill_marked() {
    for round in 1 2 3 4 5; do
        victims=$(marked "$1")
        [ -n "$victims" ] || return 0
        kill -STOP $victims 2>/dev/null
        kill -KILL $victims 2>/dev/null
        wait_until 2 none_marked "$1" && return 0
    done
    message "processes that do not die: $(marked "$1" | tr '\n' ' ')"
    return 1
}

# Commands such as srun that still wait for a daemon of this cluster, and the tasks of nodes that
# are not hosts of their own. Not: a user's shell that took over `cluster env`.
stray_clients() {
    marked "SLURM_CONF=$state/conf/slurm.conf" | while read -r pid; do
        [ "$pid" != $$ ] || continue
        case $(cat "/proc/$pid/comm" 2>/dev/null) in
            srun | salloc | sattach | sbatch | squeue | scontrol | sinfo) echo "$pid" ;;
            *) grep -qszE '^SLURMD_NODENAME=' "/proc/$pid/environ" && echo "$pid" ;;
        esac
    done
}

kill_stray_clients() {
    strays=$(stray_clients)
    [ -z "$strays" ] || kill -KILL $strays 2>/dev/null
}

# daemon_start NAME MARK COMMAND...: in the background, in its own session, with a clean environment.
# The log is $state/log/NAME.log. Sets daemon_pid.
daemon_start() {
    daemon_name=$1
    daemon_mark=$2
    shift 2
    setsid env -i PATH="$PATH" LANG=C.UTF-8 "CAIRN_CLUSTER_DAEMON=$state" "$daemon_mark" "$@" \
        </dev/null >>"$state/log/$daemon_name.log" 2>&1 9>&- &
    daemon_pid=$!
    echo "$daemon_pid" >"$state/run/$daemon_name.pid"
    # Until env has set the mark, the process looks like somebody else's.
    wait_until 5 has_mark_or_died
}

has_mark_or_died() {
    daemon_is_up "$daemon_name" || ! process_is_alive "$daemon_pid"
}

# daemon_is_up NAME: its process is there, and is ours (a process id may have been used again).
daemon_is_up() {
    pid=$(cat "$state/run/$1.pid" 2>/dev/null) || return 1
    process_is_alive "$pid" && grep -qszxF -e "CAIRN_CLUSTER_DAEMON=$state" "/proc/$pid/environ"
}

daemon_is_down() {
    ! daemon_is_up "$1"
}

daemon_kill() {
    daemon_is_up "$1" || return 0
    kill -KILL "$pid"
    wait_until 5 daemon_is_down "$1"
}

print_daemon() {
    if daemon_is_up "$1"; then
        printf '%-8s up, process %s\n' "$1" "$pid"
    else
        printf '%-8s off\n' "$1"
    fi
}
