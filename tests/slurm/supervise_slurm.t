#!/bin/sh
# cairn run in jobs of the private cluster, on a rank program that misbehaves as told (fake_train.c): lost nodes and ranks, the
# time limit's signal, preemption, cancelling, holding.
set -u
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
. "$CAIRN_SOURCE/tests/slurm/tap_cluster.sh"
export CAIRN_RANK_PROGRAM="$CAIRN_BUILD/tests/slurm/fake_train"

cat >"$scratch/gpt.yaml" <<'YAML'
data: {path: none.h5}
steps: 20
supervise: {mpi: pmi2, max_restarts: 2, heartbeat_seconds: 1, silent_seconds: 3}
YAML
cat >"$scratch/job.sh" <<EOF
#!/bin/sh
#SBATCH --nodes=2-3 --ntasks=3 --ntasks-per-node=1 --requeue --open-mode=append
exec $CAIRN run $scratch/gpt.yaml run_dir="\$FAKE_DIR/run" \${KEYS:-}
EOF

explain() {
    fact JobState
    fact Comment
    tail -n 12 "$FAKE_DIR/out" "$FAKE_DIR/run/events.jsonl"
}

run() { "$cluster" run "$@"; }

# submit NAME [VARIABLE=VALUE ...]: sets $job.
submit() {
    FAKE_DIR=$scratch/$1
    shift
    mkdir "$FAKE_DIR"
    job=$(FAKE_DIR=$FAKE_DIR run env "$@" sbatch --parsable --output="$FAKE_DIR/out" "$scratch/job.sh")
}
fact() { run scontrol show job "$job" | sed -n "s/.*[ ]$1=\([^ ]*\).*/\1/p; s/^ *$1=\(.*\)$/\1/p" | head -n 1; }
comment_says() { run scontrol show job "$job" | grep -q "^ *Comment=.*$1"; }
event() { grep -q "\"event\":\"$1\"" "$FAKE_DIR/run/events.jsonl" 2>/dev/null; }
# within SECONDS COMMAND...: until it succeeds.
within() {
    end=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt "$end" ] || return 1
        sleep 0.2
    done
}
is() { [ "$(fact "$1")" = "$2" ]; }
pending() { is JobState PENDING; }
completed() { within "$1" is JobState COMPLETED; }
launches() { [ "$(grep -c '"event":"launched"' "$FAKE_DIR/run/events.jsonl")" = "$1" ]; }
idle() { [ "$(run sinfo -h -N -p main -o %T | sort -u)" = idle ]; }

"$cluster" up --nodes 4 --cpus-per-node 16 >/dev/null || { echo "Bail out! the cluster does not start"; exit 99; }

submit dies FAKE_PLAN=exit3@5/1
check "a rank that dies is started again in the same job" completed 40
check "once" launches 2

submit node FAKE_MS=500
within 20 event first_step
victim=$(run squeue -h -j "$job" -o %N | xargs "$cluster" run scontrol show hostnames | tail -n 1)
"$cluster" off "$victim"
check "a job that loses a node goes on without it" within 60 event finished
check "and says which" grep -q "\"left_out\":\"$victim\"" "$FAKE_DIR/run/events.jsonl"
check "training again within 20 s" awk -F'seconds_since_last_sign":' '/first_step/ { last = $2 + 0 } END { exit !(last > 0 && last <= 20) }' "$FAKE_DIR/run/events.jsonl"
"$cluster" on "$victim"
within 60 idle

# A server, a worker, and a node to spare.
submit worker FAKE_MS=1000 FAKE_STEPS=25 FAKE_PLAN=stop@1/w0 \
    KEYS="parallel.sync=server parallel.data=1 supervise.heartbeat_seconds=0.5 supervise.silent_seconds=1.5"
worker_starts() { [ "$(grep -c '"event":"worker_started"' "$FAKE_DIR/run/events.jsonl")" = "$1" ]; }
worker_nodes() { sed -n 's/.*"worker_started".*"node":"\([^"]*\)".*/\1/p' "$FAKE_DIR/run/events.jsonl"; }
check "a worker that hangs is started again" within 20 worker_starts 2
check "on the node that has room" [ "$(worker_nodes | sort -u | wc -l)" = 2 ]
victim=$(worker_nodes | tail -n 1)
"$cluster" off "$victim"
check "one whose node is lost, on another" within 20 worker_starts 3
check "the servers go on" eval 'completed 60 && launches 1'
check "the lost node is not the job's any more" eval '! fact NodeList | grep -q "$victim"'
"$cluster" on "$victim"
within 60 idle

submit limit FAKE_MS=1000
within 20 event first_step
run scancel --batch --signal=USR1 "$job"
check "SIGUSR1 to the script stops at a checkpoint and requeues" within 30 event requeue
check "and the job goes on to its end in its next turn" completed 120

submit urgent FAKE_MS=1000
within 20 event first_step
run sbatch --partition=urgent --nodes=4 --exclusive --output=/dev/null --wrap true >/dev/null
# Slurm signals the step alone, GraceTime ahead. Ranks that had committed nothing would count as failed.
left_at_checkpoint() { grep -q '"event":"restart".*the ranks were asked to stop' "$FAKE_DIR/run/events.jsonl" && ! event failed; }
check "a preempted job writes a checkpoint" within 20 left_at_checkpoint
check "and goes on to its end" completed 120

submit cancelled FAKE_MS=1000
within 20 event first_step
run scancel "$job"
check "a cancelled job stays cancelled" within 40 is JobState CANCELLED
within 60 idle

submit held FAKE_PLAN='abort@5/1!'
within 60 event held
check "a job that cannot go on is held" within 60 pending
check "with the reason in its comment" within 10 comment_says "the loss is not a number"
run scancel "$job"
finish
