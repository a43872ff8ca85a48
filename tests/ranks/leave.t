#!/bin/sh
# Every way out of a job, as mpiexec sees it: the exit code arrives, nothing hangs, and one line says what was wrong.
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
leave=$CAIRN_BUILD/tests/ranks/leave

# run STATUS WORDS... -- ARGUMENT...: three ranks; the exit status (any but 0: "bad") and all WORDS in the output.
run() {
    wanted=$1 words=$2
    shift 2
    "$@" >"$scratch/out" 2>&1 </dev/null
    got=$?
    cat "$scratch/out"
    echo "exit status $got, wanted $wanted; wanted words: $words"
    [ $got -ne 124 ] && [ $got -ne 137 ] || return 1
    if [ "$wanted" = bad ]; then [ $got -ne 0 ] || return 1; else [ $got -eq "$wanted" ] || return 1; fi
    [ -z "$words" ] || grep -qa -- "$words" "$scratch/out"
}
mpi() { timeout -k 5 60 "${MPIEXEC:-mpiexec}" -n 3 "$@"; }
supervised() { CAIRN_SUPERVISED=1 mpi "$@"; }

stop_one() {
    mpi "$leave" stop >"$scratch/stop" 2>&1 </dev/null &
    launcher=$!
    tries=0
    while [ $tries -lt 300 ] && ! grep -q launched "$scratch/stop"; do
        sleep 0.1
        tries=$((tries + 1))
    done
    # the ranks are those processes of ours whose program is leave and whose rank in the environment is 2
    for process in /proc/[0-9]*; do
        [ "$(readlink "$process/exe")" = "$(readlink -f "$leave")" ] || continue
        tr '\0' '\n' <"$process/environ" 2>/dev/null | grep -qx 'PMI_RANK=2' && kill -USR1 "${process#/proc/}"
    done
    wait $launcher
    got=$?
    cat "$scratch/stop"
    [ $got -eq 75 ] && grep -q 'cairn\[2@.*stopped by SIGUSR1 (time limit near)' "$scratch/stop"
}

check 'all leave with 0' run 0 '' mpi "$leave" 0
check 'all leave with 75' run 75 '' mpi "$leave" 75
check 'one rank alone, without a launcher' run 2 '1 rank on 1 node, launched: alone' timeout -k 5 60 "$leave" 2
check 'the supervisor is told of an orderly end' run 0 'cairn leave 2 .* 0 - 0$' supervised "$leave" 0
check 'MPI_Finalize hangs: left without it, with 0' run 0 '' mpi "$leave" hang-finalize # the line that tells of it may come after the others' end
check 'one aborts' run bad '' mpi "$leave" abort
check 'the supervisor is told who aborts, where and why' run bad 'cairn abort 1 [^ ]* 1234 step rank 1 gives up$' supervised "$leave" abort
check 'a second thread aborts while the first is inside MPI' run bad '' mpi "$leave" abort-thread
check 'MPI_Abort' run bad '' mpi "$leave" mpi-abort
check 'a rank that stands still is taken for hung' run bad 'rank 1 on [^ ]* is 1\.[0-9] s in phase step of step 1234 (limit 1.0 s' \
    mpi "$leave" hang
check 'heartbeats tell where a rank is' run bad 'cairn alive 2 [^ ]* 1234 step' supervised "$leave" hang
check 'a rank is killed' run bad '' mpi "$leave" die
check 'a rank is killed before MPI starts' run bad '' mpi "$leave" die-early
check 'a signal to one rank stops all, with 75' stop_one
finish
