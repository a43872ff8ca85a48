#!/bin/sh
# A parameter server on the private cluster, on real training: one server and three workers, hit by what kills a worker, a server, and a
# worker's node. At staleness 0 the weights are those of a run that nothing disturbs and that has no server.
set -u
. "$CAIRN_SOURCE/tests/train/common.sh"
. "$CAIRN_SOURCE/tests/slurm/tap_cluster.sh"
[ "$(basename "$CAIRN")" = cairn ] || CAIRN=$CAIRN_BUILD/cairn

# So many steps that what a fault sets off is done before the run is: of some seconds, whatever the machine.
begin=$(date +%s%N)
train 1 run_dir=probe steps=300 validation.every=0 checkpoint.every=0
steps=$((300 * (1 + 6000000000 / ($(date +%s%N) - begin))))
keys="steps=$steps optimizer.decay_steps=$steps validation.every=150 log.every=100 checkpoint.every=40"
cat >job.sh <<END
#!/bin/sh
#SBATCH --nodes=3-4 --ntasks=4 --ntasks-per-node=1 --requeue --open-mode=append
unset UCX_TLS
exec $CAIRN run tiny.yaml run_dir=\$RUN $keys parallel.sync=server supervise.heartbeat_seconds=0.2 supervise.silent_seconds=2
END

# submit RUN: sets $run, and waits for a step behind its first checkpoint.
submit() {
    run=$1
    RUN=$run "$cluster" run sbatch --output="$run.out" job.sh >/dev/null
    within 90 grep -qE '"step":([5-9][0-9]|[1-9][0-9][0-9]),' "$run/metrics.jsonl"
}
# within SECONDS COMMAND...: until it succeeds.
within() {
    end=$(($(date +%s) + $1))
    shift
    until "$@" 2>/dev/null; do
        [ "$(date +%s)" -lt "$end" ] || return 1
        sleep 0.1
    done
}
events() { grep -c "\"event\":\"$1\"" "$run/events.jsonl"; }
# happened LAUNCHES LOST STARTED: of workers.
happened() { [ "$(events launched)" = "$1" ] && [ "$(events worker_lost)" -ge "$2" ] && [ "$(events worker_started)" = "$3" ]; }
node_of_worker() { sed -n "s/.*\"worker_started\",\"worker\":$1,\"node\":\"\([^\"]*\)\".*/\1/p" "$run/events.jsonl"; }
# process NODE: the training's process there.
process() {
    for process in $(pgrep -f "^$CAIRN train tiny.yaml run_dir=$run "); do
        tr '\0' '\n' <"/proc/$process/environ" | grep -qx "SLURMD_NODENAME=$1" && echo "$process"
    done
}
explain() { tail -n 30 "$run.out" "$run/events.jsonl"; }
ends() { within 60 eval '[ "$(events finished)" = 1 ]'; }

train 1 run_dir=alone $keys
expected=$(hash_of alone)
"$cluster" up --nodes 4 --cpus-per-node 4 >/dev/null || { echo "Bail out! the cluster does not start"; exit 99; }

submit worker
kill -KILL "$(process "$(node_of_worker 1)")"
check "a worker is killed: the run goes on to its end" ends
check "the worker was started again, the server was not" happened 1 1 4
same "with the weights of a bulk run" worker

submit server
kill -KILL "$(process node1)"
check "the server is killed: it is started again and the run goes on to its end" ends
check "with all workers" eval '[ "$(events launched)" = 2 ] && [ "$(events worker_started)" -ge 6 ]'
same "and the weights of a bulk run" server

submit node
victim=$(node_of_worker 2)
"$cluster" off "$victim"
check "a worker's node loses its power: the others go on to the end" ends
check "nothing was started again" happened 1 1 3
check "and the node is left out" grep -q "\"node_lost\",\"node\":\"$victim\"" "$run/events.jsonl"
same "with the weights of a bulk run" node
check "the servers' secret is in no output and no event" eval '! grep -rE "[0-9a-f]{32}@" ./*.out ./*/events.jsonl'
finish
