# For tests of cairn run over mpiexec, sourced by tests/slurm/*.t: a rank program that misbehaves as told (fake_train.c), runs of
# $scratch/gpt.yaml, and what is to be seen of them.
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
unset SLURM_JOB_ID
export CAIRN_RANK_PROGRAM="$CAIRN_BUILD/tests/slurm/fake_train" CAIRN_MPIEXEC="$MPIEXEC"

# What the last run said.
explain() { tail -n 20 "$dir/err" "$dir/run/events.jsonl"; }

# fresh NAME: a new folder for a run, in $dir.
fresh() {
    dir=$scratch/$1
    mkdir "$dir"
    export FAKE_DIR="$dir"
    unset FAKE_PLAN FAKE_STEPS FAKE_MS
}

run() {
    timeout -k 5 60 "$CAIRN" run "$scratch/gpt.yaml" run_dir="$dir/run" "$@" >"$dir/out" 2>"$dir/err"
    code=$?
}

launches() { grep -c '"event":"launched"' "$dir/run/events.jsonl"; }
ended() { [ "$code" = "$1" ] && [ "$(launches)" = "$2" ]; }
said() { grep -q -- "$1" "$dir/err"; }
ranks_left() { pgrep -f "$CAIRN_RANK_PROGRAM train $scratch/gpt.yaml run_dir=$dir/run"; }
none_left() {
    for try in $(seq 50); do
        [ -n "$(ranks_left)" ] || return 0
        sleep 0.1
    done
    return 1
}
wait_for_event() {
    for try in $(seq 100); do
        grep -q "\"event\":\"$1\"" "$dir/run/events.jsonl" 2>/dev/null && return 0
        sleep 0.1
    done
    return 1
}
# wait_until_taken NUMBER: signals of that number sent to $pid are no longer pending: a second one would be the same one until then.
wait_until_taken() {
    for try in $(seq 100); do
        pending=$(sed -n 's/^ShdPnd:[[:space:]]*/0x/p' "/proc/$pid/status") || return 1
        [ $((pending >> ($1 - 1) & 1)) -eq 0 ] && return 0
        sleep 0.1
    done
    return 1
}
# begin ARGUMENT...: in the background; $pid.
begin() {
    "$CAIRN" run "$scratch/gpt.yaml" run_dir="$dir/run" "$@" >"$dir/out" 2>"$dir/err" &
    pid=$!
}
# break_off SIGNAL: begins a run of slow steps, and sends it SIGNAL at the first one; $code when it has ended.
break_off() {
    export FAKE_MS=300
    begin
    wait_for_event first_step
    kill -"$1" $pid
    wait $pid 2>/dev/null
    code=$?
    unset FAKE_MS
}
clean_up() {
    for victim in $(pgrep -f "train $scratch/gpt.yaml run_dir="); do
        kill -KILL "$victim" 2>/dev/null
    done
    rm -rf "$scratch"
}
trap clean_up EXIT
