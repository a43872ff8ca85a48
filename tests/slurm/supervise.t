#!/bin/sh
# cairn run over mpiexec, on a rank program that misbehaves as told (fake_train.c).
set -u
. "$CAIRN_SOURCE/tests/slurm/supervise_common.sh"

cat >"$scratch/gpt.yaml" <<'YAML'
data: {path: none.h5}
steps: 20
supervise: {launcher: mpiexec, ranks: 2, max_restarts: 2, heartbeat_seconds: 0.5, silent_seconds: 2}
YAML

fresh plain
run
check "a run that nothing disturbs ends with 0 after one launch" ended 0 1
check "its output is passed on, without control lines" eval 'grep -qx "fake: done, 20 steps" "$dir/out" && ! grep -q "$(printf "\001")" "$dir/out"'

fresh dies
FAKE_PLAN=exit3@5/1 run
check "a rank that exits is started again" ended 0 2

fresh segv
FAKE_PLAN=segv@5/0 run
check "a rank that crashes is started again" ended 0 2

fresh stopped
FAKE_PLAN=stop@5/1 run
check "a rank that is stopped is found by its silence and started again" ended 0 2
check "no process of the first launch is left" none_left

fresh hangs
FAKE_PLAN=hang@5/0 run
check "a rank that hangs is started again" ended 0 2

fresh unasked
FAKE_PLAN=leave75@5/0,leave75@5/1 run
check "ranks that stop though nobody asked the supervisor are started again" ended 0 2

fresh unasked_full
FAKE_PLAN='full@0/0!,leave75@5/0!,leave75@5/1!' run
check "not for ever when they commit nothing" ended 1 3
check "and the reason is told" said "the ranks stopped and committed no checkpoint"

fresh unrecorded
mkdir "$dir/run"
yes '' | head -c 524288 >"$dir/run/events.jsonl" # as long as files may grow there; readers pass over empty lines
export FAKE_PLAN='exit3@0/0,exit4@0/0,exit5@0/0,exit6@0/0'
(trap '' XFSZ && ulimit -f 1024 && run && exit "$code") # blocks of 512 bytes
code=$?
check "restarts are counted though events.jsonl cannot be written" eval '[ "$code" = 1 ] && [ -e "$dir/did-exit5@0_0" ] && [ ! -e "$dir/did-exit6@0_0" ]'
check "which is told once" [ "$(grep -c 'not on record' "$dir/err")" = 1 ]

fresh usage
FAKE_PLAN=leave2@3/0,leave2@3/1 run
check "bad config ends at once" ended 2 1

fresh same
FAKE_PLAN=abort@5/1! run
check "the same error at the same step ends it after the second time" ended 1 2
check "and the error is told" said "the loss is not a number"

fresh agreed
CAIRN_RANK_PROGRAM= run
check "an error that all ranks know of, likewise" ended 1 2
check "its reason is told" said 'gives up: the same error at the same step, 2 times: .*none.h5: .*No such file'

fresh fruitless
FAKE_PLAN='exit3@0/0,exit4@0/0,exit5@0/0,exit6@0/0' run
check "restarts without a newer checkpoint have a limit" ended 1 3

fresh progress
FAKE_PLAN='exit3@3/0,exit3@6/0,exit3@9/0,exit3@12/0' run
check "restarts with newer checkpoints between them have none" ended 0 5

# Its checkpoints were removed by people: what was committed before is no measure any more.
fresh anew
mkdir "$dir/run"
echo '{"event":"committed","step":10000}' >"$dir/run/events.jsonl"
FAKE_PLAN='exit3@3/0,exit3@6/0,exit3@9/0,exit3@12/0' run
check "nor have those of a run that begins anew" ended 0 5
check "which is on record" grep -q '"event":"restored","step":0' "$dir/run/events.jsonl"

launched() { grep -q "\"launched\",\"ranks\":$1," "$dir/run/events.jsonl"; }
fresh layout
run supervise.ranks=3 parallel.pipeline=2
check "ranks that make no whole copy of the model stay idle" eval 'ended 0 1 && launched 2'
check "which is told" said '2 of the 3 ranks that fit are used (pipeline 2), the rest is left idle: a copy of the model takes 2'
fresh layout_alone
run supervise.ranks=0 parallel.pipeline=2 parallel.data=2
check "with no number of ranks given there are as many as the layout needs" eval 'ended 0 1 && launched 4'
fresh layout_few
run parallel.pipeline=2 parallel.data=2
check "too few ranks for the layout end with 2 before any is started" ended 2 0
check "and the reason is told" said '2 ranks fit on the healthy nodes, but data 2 x pipeline 2 needs 4 and cannot shrink (with parallel.data: auto it could)'

fresh layout_kept
mkdir "$dir/run"
echo 'data: {path: none.h5}
parallel: {auto: context, context: 2}' >"$dir/run/config.yaml"
run supervise.ranks=3 parallel=auto
check "auto takes as many ranks as the axes before can use" eval 'ended 0 1 && launched 2'
check "and tells it" said '2 of the 3 ranks that fit are used (auto), the rest is left idle: no layout of more keeps tensor 1 and context 2, and so the bits'

fresh flood
FAKE_PLAN=flood@5/1 run
check "a flood of output arrives whole" [ "$(awk '/^x+$/ && length == 65535' "$dir/out" | wc -l)" = 64 ]

fresh term
break_off TERM
check "SIGTERM stops at a checkpoint" ended 75 1
run
check "and the next run goes on to the end" ended 0 2

fresh twice
export FAKE_MS=300 FAKE_PLAN='deaf@0/0,deaf@0/1'
begin
wait_for_event first_step
kill -INT $pid
wait_until_taken 2
kill -INT $pid
wait $pid
code=$?
check "a second SIGINT ends it though the ranks do not" ended 75 1
check "and leaves no rank" none_left

fresh killed
break_off KILL
check "no rank outlives a killed supervisor" none_left

# What the ranks see of the policy, with THREADS each and two of them.
policy() {
    fresh "policy$cases"
    printf '#!/bin/sh\necho "${OMP_WAIT_POLICY-unset}" >>"$FAKE_DIR/policy"\nexec "%s" "$@"\n' "$CAIRN_RANK_PROGRAM" >"$dir/program"
    chmod +x "$dir/program"
    CAIRN_RANK_PROGRAM=$dir/program FAKE_STEPS=2 run threads="$1"
    seen=$(sort -u "$dir/policy")
}
unset OMP_WAIT_POLICY GOMP_SPINCOUNT FAKE_MS
policy "$(nproc)"
check "more threads than cores: those that wait sleep" [ "$seen" = passive ]
policy 1
check "one thread a rank needs no policy" [ "$seen" = unset ]
export GOMP_SPINCOUNT=100
policy "$(nproc)"
check "the user's own word counts" [ "$seen" = unset ]
unset GOMP_SPINCOUNT

fresh missing
timeout 20 "$CAIRN" run "$scratch/no.yaml" >"$dir/out" 2>"$dir/err"
code=$?
check "a missing config ends with 2" [ "$code" = 2 ]
timeout 20 "$CAIRN" run - <"$scratch/gpt.yaml" >"$dir/out" 2>"$dir/err"
code=$?
check "a config from standard input is refused" [ "$code" = 2 ]
timeout 20 "$CAIRN" run "$scratch/gpt.yaml" supervise.launcher=srun run_dir="$dir/run" >"$dir/out" 2>"$dir/err"
code=$?
check "srun outside a Slurm job ends with 2" [ "$code" = 2 ]
finish
