#!/bin/sh
# cairn run of a parameter server over mpiexec: workers that die, hang or never come, and servers that do.
set -u
. "$CAIRN_SOURCE/tests/slurm/supervise_common.sh"

cat >"$scratch/gpt.yaml" <<'YAML'
data: {path: none.h5}
steps: 20
parallel: {sync: server}
supervise: {launcher: mpiexec, ranks: 4, max_restarts: 2, heartbeat_seconds: 0.5, silent_seconds: 2}
YAML

events() { grep -c "\"event\":\"$1\"" "$dir/run/events.jsonl"; }
# workers STARTED LOST: so often.
workers() { [ "$(events worker_started)" = "$1" ] && [ "$(events worker_lost)" = "$2" ]; }

fresh plain
export FAKE_MS=100
begin
wait_for_event first_step
check "the servers' secret is in no command line" eval '! ps axww -o args | grep "[s]ecret-"'
wait $pid
code=$?
check "three workers train with one server" eval 'ended 0 1 && workers 3 0'
check "which is told" said ': 1 server and 3 workers on 1 node$'
check "the secret is in no output and no event" eval '! grep -r secret- "$dir/out" "$dir/err" "$dir/run"'
check "no process is left" none_left

fresh torn
FAKE_MS=100 FAKE_PLAN=torn@0/0 run
check "damaged control lines are not taken for the servers' call" eval 'ended 0 1 && workers 3 0'
check "nor shown" eval '! grep -r secret- "$dir/out" "$dir/err"'
check "but told" [ "$(grep -c '\[a damaged control line\]$' "$dir/out")" = 2 ]

fresh dies
FAKE_MS=150 FAKE_PLAN=exit3@5/w1 run
check "a worker that exits is started again, the servers go on" eval 'ended 0 1 && workers 4 1'
check "and it is told" said 'worker 1 on .* ended with exit code 3: it is started again'

fresh segv
FAKE_MS=150 FAKE_PLAN=segv@5/w0,abort@5/w2 run
check "so are one that crashes and one that aborts" eval 'ended 0 1 && workers 5 2'
check "with the signal told" said 'worker 0 on .* was ended by signal 11'
check "and the reason" said 'worker 2 on .* has ended: the loss is not a number'

fresh hangs
FAKE_MS=600 FAKE_PLAN=stop@5/w2 run
check "a worker that is stopped is found by its silence and started again" eval 'ended 0 1 && workers 4 1'
check "it is not left behind" none_left

fresh usage
FAKE_MS=100 FAKE_PLAN=exit2@5/w1 run
check "a worker whose config is bad is given up, the others go on" eval 'ended 0 1 && workers 3 1'

fresh again_and_again
FAKE_MS=250 FAKE_PLAN='exit3@-1/w1!' run
check "so is one that fails again and again without a step" eval 'ended 0 1 && workers 5 3'
check "which is told" said 'worker 1 on .*: it is given up, the others go on'

fresh all
FAKE_MS=200 FAKE_PLAN='exit2@-1/w0!,exit2@-1/w1!,exit2@3/w2!' run supervise.max_restarts=0
check "without a worker the launch has failed" ended 1 1
check "and the reason is told" said 'gives up: .*: no worker is left'

fresh server
FAKE_MS=100 FAKE_PLAN=exit3@5/1 run parallel.servers=2
check "a server that dies is started again, with all workers" eval 'ended 0 2 && workers 4 0'
check "and no worker of before is left" none_left

fresh term
break_off TERM
check "SIGTERM stops at a checkpoint" eval 'ended 75 1 && workers 3 0'
check "and leaves no worker" none_left
run
check "the next run goes on to the end" ended 0 2

fresh killed
break_off KILL
check "no worker outlives a killed supervisor" none_left

# Each worker is task 0 of a step of its own, and must not be taken for the server of rank 0.
env CAIRN_LAUNCH="test$$.1" SLURM_PROCID=0 CAIRN_WORKER=2 sleep 60 &
worker=$!
env CAIRN_LAUNCH="test$$.1" SLURM_PROCID=1 sleep 60 &
server=$!
has_rank() { "$CAIRN" run --sweep "test$$" --has-rank="$1"; }
for process in $worker $server; do
    for try in $(seq 100); do [ "$(cat "/proc/$process/comm")" = sleep ] && break; sleep 0.1; done
done
check "a server that is there is found" has_rank 1
check "a worker is not taken for a server" eval 'has_rank 0; [ $? = 3 ]'
"$CAIRN" run --sweep "test$$"
wait $worker
swept=$?
wait $server
check "both are swept away" [ "$swept $?" = "137 137" ]

fresh few
run supervise.ranks=1
check "too few ranks for a server and a worker end with 2" ended 2 0
check "and the reason is told" said '1 rank fits on the healthy nodes, but 1 server and workers need 2 at least'
finish
