#!/bin/sh
# cairn run under a Slurm that is only played (an srun, scontrol and squeue of a few lines): what is hard to time on a real one.
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
cairn=${CAIRN:-cairn}
fake_train=${CAIRN_BUILD:-.}/tests/slurm/fake_train
export CAIRN_RANK_PROGRAM="$fake_train" SLURM_JOB_ID="900$$" SLURM_JOB_NODELIST=stub SLURM_NTASKS=1
unset SLURM_RESTART_COUNT SLURM_CPUS_PER_TASK SLURM_NTASKS_PER_NODE
pid=

cat >"$scratch/gpt.yaml" <<'YAML'
data: {path: none.h5}
steps: 20
supervise: {heartbeat_seconds: 0.5, silent_seconds: 5}
YAML

mkdir "$scratch/bin"
PATH=$scratch/bin:$PATH

# While the file "away" is there, slurmctld is; "falls" takes it away in the midst of a launch.
cat >"$scratch/bin/srun" <<'STUB'
#!/bin/sh
[ ! -e "$FAKE_DIR/falls" ] || mv "$FAKE_DIR/falls" "$FAKE_DIR/away"
[ ! -e "$FAKE_DIR/away" ] || { echo "srun: error: Unable to contact slurm controller" >&2; exit 1; }
# "blinks": back again before anybody asks why the sweep failed.
case "$*" in *--sweep*) if rm "$FAKE_DIR/blinks" 2>/dev/null; then exit 1; fi ;; esac
case "$*" in *--nodelist=far\ * | *--nodelist\ far\ *) if [ -e "$FAKE_DIR/far_is_dead" ]; then exit 1; fi ;; esac
# "dumb": a worker's step says nothing, and srun leaves it behind when it is killed, but not when it is asked to end.
if [ -n "${CAIRN_WORKER:-}" ] && rm "$FAKE_DIR/dumb" 2>/dev/null; then
    setsid sleep 60 &
    trap 'kill $!; wait; exit 143' TERM
    echo $! >"$FAKE_DIR/step"
    wait
    exit
fi
while :; do
    case $1 in
        --nodelist) shift 2 ;;
        --*) shift ;;
        *) break ;;
    esac
done
step=${CAIRN_WORKER:+7}
SLURM_PROCID=0 SLURM_STEP_ID=${step:-0} SLURM_STEP_NUM_TASKS=1 exec "$@"
STUB

# A requeued job's batch script is killed. "refuses": no comment is taken; "mute": slurmctld lets a requeue wait.
cat >"$scratch/bin/scontrol" <<'STUB'
#!/bin/sh
case $1 in
    ping) if [ -e "$FAKE_DIR/away" ]; then echo "Slurmctld(primary) at stub is DOWN"; else echo "Slurmctld(primary) at stub is UP"; fi ;;
    show) echo "$3" ;;
    update) [ ! -e "$FAKE_DIR/refuses" ] || exit 1 ;;
    requeue*) if [ -e "$FAKE_DIR/mute" ]; then exec sleep 60; fi; kill -KILL $PPID ;;
esac
STUB

# Minutes and seconds that are left are in the file "left".
cat >"$scratch/bin/squeue" <<'STUB'
#!/bin/sh
cat "$FAKE_DIR/left" 2>/dev/null || echo UNLIMITED
STUB
cat >"$scratch/bin/scancel" <<'STUB'
#!/bin/sh
echo "$*" >>"$FAKE_DIR/cancelled"
STUB
chmod +x "$scratch"/bin/*

# begin NAME [VARIABLE=VALUE ...]: a run in the folder $FAKE_DIR, in the background. FILES are made there first; KEYS are of its config.
begin() {
    FAKE_DIR=$scratch/$1
    shift
    export FAKE_DIR
    mkdir -p "$FAKE_DIR"
    for file in $FILES; do : >"$FAKE_DIR/$file"; done
    env "$@" timeout -k 5 60 "$cairn" run "$scratch/gpt.yaml" run_dir="$FAKE_DIR/run" supervise.max_restarts=${RESTARTS:-0} ${KEYS:-} \
        >"$FAKE_DIR/out" 2>"$FAKE_DIR/err" &
    pid=$!
}
event() { grep -q "\"event\":\"$1\"" "$FAKE_DIR/run/events.jsonl" 2>/dev/null; }
wait_for() {
    for try in $(seq 100); do
        event "$1" && return 0
        sleep 0.1
    done
    return 1
}
# ended STATUS LAUNCHES
ended() {
    wait "$pid"
    status=$?
    pid=
    launches=$(grep -c '"event":"launched"' "$FAKE_DIR/run/events.jsonl")
    cat "$FAKE_DIR/err" "$FAKE_DIR/run/events.jsonl"
    echo "ended with $status after $launches launches"
    [ "$status" = "$1" ] && [ "$launches" = "$2" ]
}
not() { ! "$@"; }
told_once() { [ "$(grep -c "$1" "$FAKE_DIR/err")" = 1 ]; }
clean_up() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null
    rm -rf "$scratch"
}
trap clean_up EXIT

FILES=away begin away
check "a first launch waits while slurmctld is away" wait_for controller_away
rm "$FAKE_DIR/away"
check "and goes on when it is back" ended 0 1
check "which is told once" told_once 'slurmctld does not answer'

FILES=falls begin falls
check "slurmctld goes away in the midst of a launch" wait_for controller_away
rm "$FAKE_DIR/away"
check "the launch is tried again though no restart is allowed" ended 0 2
check "and is no failure" not event failed
check "nor a lost node" not event node_lost

RESTARTS=1 FILES=blinks begin blinks FAKE_PLAN=exit3@5/0
check "slurmctld is back before it is asked for: the run goes on" ended 0 2
check "and no node is lost" not event node_lost

# A worker dies, and slurmctld is away when it is to be started again.
not_started() { [ "$(grep -c 'could not be started, slurmctld does not answer' "$FAKE_DIR/err")" -ge 1 ]; }
KEYS=parallel.sync=server FILES='' begin worker SLURM_NTASKS=2 FAKE_MS=1000 FAKE_PLAN=exit3@5/w0
wait_for first_step
: >"$FAKE_DIR/falls"
for try in $(seq 150); do not_started && break; sleep 0.1; done
check "a worker that cannot be started while slurmctld is away is not given up" not_started
rm "$FAKE_DIR/away"
check "the servers do not need slurmctld" ended 0 1
check "the worker comes when it is back" [ "$(grep -c '"event":"worker_started"' "$FAKE_DIR/run/events.jsonl")" -ge 3 ]

# What is left of a worker's step trains on beside the worker that comes in its place. The sweep at the end would hide it.
RESTARTS=2 KEYS='parallel.sync=server supervise.start_seconds=3' FILES=dumb begin dumb SLURM_NTASKS=2 FAKE_MS=300
wait_for worker_lost
check "a worker that never spoke is ended with its step" eval '! kill -0 "$(cat "$FAKE_DIR/step")"'
check "and another one comes" ended 0 1

cancelled() { grep -q "^--signal=KILL $SLURM_JOB_ID.7\$" "$FAKE_DIR/cancelled"; }
RESTARTS=2 KEYS=parallel.sync=server FILES='' begin killed SLURM_NTASKS=2 FAKE_MS=300 FAKE_PLAN=segv@-1/w0
wait_for worker_lost
check "the step of a worker whose srun was killed is cancelled" cancelled
check "and another one comes" ended 0 1

KEYS='parallel.sync=server supervise.silent_seconds=2' FILES='' begin far SLURM_NTASKS=2 FAKE_MS=500 FAKE_PLAN=stop@-1/w0 \
    SLURM_JOB_NODELIST='stub
far'
wait_for first_step
: >"$FAKE_DIR/far_is_dead"
wait_for worker_lost
check "so is that of a worker whose node is lost" cancelled
check "without whom nobody is left" ended 137 1

FILES=away begin stopped
wait_for controller_away
kill -TERM "$pid" # timeout passes it on
check "who waits for slurmctld can be stopped" ended 75 0

FILES='' begin limit FAKE_MS=1000 FAKE_PLAN=deaf@0/0
echo 0:08 >"$FAKE_DIR/left"
wait_for first_step
kill -USR1 "$(pgrep -P "$pid")" # timeout does not pass this one on
check "ranks that do not stop are given up before the allocation ends" ended 137 1
check "and the job is requeued" event requeue
check "with the reason told" told_once 'the ranks have not stopped'

# ask_to_stop: as --signal=B:USR1@N does; timeout does not pass this one on.
ask_to_stop() {
    wait_for first_step
    kill -USR1 "$(pgrep -P "$pid")"
}

RESTARTS=1 FILES='' begin full FAKE_MS=300 FAKE_PLAN='full@0/0!'
ask_to_stop
check "a stop that commits nothing is requeued" ended 137 1
check "once more" event requeue
mkdir -p "$scratch/turn/run"
sed /first_step/d "$FAKE_DIR/run/events.jsonl" >"$scratch/turn/run/events.jsonl" # ask_to_stop waits for the next one
RESTARTS=1 FILES='' begin turn FAKE_MS=300 FAKE_PLAN='full@0/0!'
ask_to_stop
check "but not beyond the limit of restarts without a newer checkpoint" ended 137 2
check "then it is held" event held

FILES=mute begin mute FAKE_MS=300
echo 0:12 >"$FAKE_DIR/left"
ask_to_stop
asked=$(date +%s)
check "a requeue that takes too long is given up" ended 75 1
check "before the allocation ends" [ $(($(date +%s) - asked)) -le 16 ]
check "and told" told_once "requeue $SLURM_JOB_ID' failed"

FILES=refuses begin refuses FAKE_PLAN=exit3@5/0
check "a job is held though the reason does not get into its comment" ended 137 1
check "which is told" told_once 'the reason is not in the comment'

RESTARTS=2 KEYS=parallel.pipeline=2 FILES='' begin narrow SLURM_RESTART_COUNT=1
check "a turn with too few nodes for the layout starts nothing" ended 137 0
check "the job is requeued: the next may bring more" event requeue
check "with the reason told" told_once '1 rank fits on the healthy nodes, but a copy of the model takes 2 (pipeline 2): job'
RESTARTS=0 KEYS=parallel.pipeline=2 FILES='' begin narrow SLURM_RESTART_COUNT=2
check "but not for ever" ended 137 0
check "then it is held" event held
check "and told why" told_once 'held: 0 restarts without a newer checkpoint: 1 rank fits on the healthy nodes'
KEYS=parallel.pipeline=2 FILES='' begin narrow_first
check "a first turn with too few ranks for the layout ends the job" ended 2 0
check "and the reason is told, once" told_once '1 rank fits on the healthy nodes, but a copy of the model takes 2 (pipeline 2)'

FILES='' begin step FAKE_MS=100 FAKE_PLAN=leave75@5/0
check "ranks that were told to stop without the supervisor are started again" ended 0 2
FILES='' begin step_limit FAKE_MS=100 FAKE_PLAN=leave75@5/0
echo 2:00 >"$FAKE_DIR/left"
check "near the time limit the job is requeued instead" ended 137 1
check "for that reason" told_once '120 s are left'
finish
