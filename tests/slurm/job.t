#!/bin/sh
# The job on a real Slurm: PMIx with the bridge, PMI-2, no launcher that MPI understands, and every way a step can end.
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
. "$CAIRN_SOURCE/tests/slurm/tap_cluster.sh"
job=$CAIRN_BUILD/tests/ranks/job.ranks
leave=$CAIRN_BUILD/tests/ranks/leave

srun() { timeout -k 5 100 "$cluster" run srun "$@" </dev/null; }

# all_ok NODES RANKS NODE_OF PATH ARGUMENT...: job.ranks under srun, every check of its own passing.
all_ok() {
    nodes=$1 ranks=$2 map=$3 path=$4
    shift 4
    CAIRN_TEST_RANKS=$ranks CAIRN_EXPECT_NODE_OF=$map CAIRN_EXPECT_PATH=$path srun --nodes="$nodes" --ntasks="$ranks" "$@" "$job" \
        >"$scratch/out" 2>&1
    status=$?
    cat "$scratch/out"
    [ $status -eq 0 ] && grep -q '^1\.\.' "$scratch/out" && ! grep -q '^not ok' "$scratch/out"
}

# ends STATUS WORDS ARGUMENT...: a step of four ranks that ends so; "bad" is any status but 0 and a time limit's.
ends() {
    wanted=$1 words=$2
    shift 2
    srun --nodes=4 --ntasks=4 "$@" >"$scratch/out" 2>&1
    status=$?
    cat "$scratch/out"
    echo "exit status $status, wanted $wanted; wanted words: $words"
    [ $status -ne 124 ] || return 1
    if [ "$wanted" = bad ]; then [ $status -ne 0 ] || return 1; else [ $status -eq "$wanted" ] || return 1; fi
    [ -z "$words" ] || grep -qa -- "$words" "$scratch/out"
}

# One line names the mend, from all four ranks together; no rank goes on alone.
lonely() {
    ends 1 'start with srun --mpi=pmix (or --mpi=pmi2)' --mpi=none "$leave" 0 || return 1
    [ "$(grep -c 'cairn: ' "$scratch/out")" -eq 1 ]
}

# Twenty programs that are done at once: all of them end, and in order.
twenty() {
    cat >"$scratch/twenty" <<END
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    timeout -k 5 40 srun --overlap --mpi=$1 $job --quick || echo "run \$i: exit status \$?"
done
END
    timeout -k 5 300 "$cluster" run salloc --nodes=4 --ntasks=4 sh "$scratch/twenty" >"$scratch/out" 2>&1 </dev/null
    cat "$scratch/out"
    [ "$(grep -c 's to the first collective' "$scratch/out")" -eq 20 ] && ! grep -q 'exit status' "$scratch/out"
}

# The number of fences does not grow with the ranks.
fences() { srun --nodes=4 --ntasks="$1" --mpi=pmix "$job" --quick 2>/dev/null | sed -n 's/.*collective, \([0-9]*\) fences.*/\1/p'; }
constant_fences() {
    few=$(fences 8) many=$(fences 16)
    echo "8 ranks: $few fences; 16 ranks: $many"
    [ -n "$few" ] && [ "$few" -eq "$many" ]
}

check 'a cluster of four nodes' timeout -k 5 120 "$cluster" up --nodes 4
bridge='PMIx with the PMI bridge'
check 'pmix: four nodes, one rank each' all_ok 4 4 0,1,2,3 "$bridge" --mpi=pmix
check 'pmix: four nodes, two ranks each, sharing memory' all_ok 4 8 0,0,1,1,2,2,3,3 "$bridge" --mpi=pmix --ntasks-per-node=2
check 'pmix: ranks dealt out in turn' all_ok 3 6 0,1,2,0,1,2 "$bridge" --mpi=pmix --ntasks-per-node=2 --distribution=cyclic
check 'pmix: uneven nodes' all_ok 2 3 0,0,1 "$bridge" --mpi=pmix --distribution=block
check 'pmix: one rank' all_ok 1 1 0 "$bridge" --mpi=pmix
check 'pmi2: four nodes, one rank each' all_ok 4 4 0,1,2,3 PMI --mpi=pmi2
check 'N tasks and an MPI of one rank is an error with one message' lonely
check 'an orderly end with 75' ends 75 '' --mpi=pmix "$leave" 75
check 'MPI_Finalize hangs: the step ends with 0 all the same' ends 0 'MPI_Finalize took too long' --mpi=pmix "$leave" hang-finalize
check 'one rank aborts: the step ends' ends bad '' --mpi=pmix "$leave" abort
check 'an abort out of the MPI library passes the bridge' ends bad '' --mpi=pmix "$leave" mpi-abort
check 'a rank that hangs is named and the step ends' ends bad 'rank 1 on node2 is .* in phase step of step 1234' --mpi=pmix "$leave" hang
# Without --kill-on-bad-exit Slurm 22.05 lets the others wait for a killed rank until their watchdogs end them.
check 'a rank is killed in a barrier of MPI' ends bad '' --mpi=pmix --kill-on-bad-exit=1 "$leave" die
check 'a rank is killed in a barrier of the start' ends bad '' --mpi=pmix --kill-on-bad-exit=1 "$leave" die-early
check 'a rank is killed under pmi2' ends bad '' --mpi=pmi2 --kill-on-bad-exit=1 "$leave" die
check 'Slurm tells the time left' ends 0 '^\(29[0-9]\|300\) seconds left' --mpi=pmix --time=5 "$leave" time
check 'twenty short programs in a row under pmix all end' twenty pmix
check 'the start takes as many fences for 16 ranks as for 8' constant_fences
check 'nothing is left of the cluster' sh -c '"$0" down && "$0" check-clean' "$cluster"
finish
