#!/bin/sh
# parallel: auto: the planner chooses the layout, the training goes on as if it had been given, on any number of ranks.
. "$CAIRN_SOURCE/tests/train/common.sh"
cat >tiny.yaml <<'EOF'
steps: 4
data: {path: text.h5}
batch: {microbatches: 4, samples: 2}
model: {layers: 4, width: 64, heads: 4, context: 32, dropout: 0.1}
optimizer: {learning_rate: 3.0e-3, min_learning_rate: 3.0e-4, warmup_steps: 1, decay_steps: 4}
threads: 1
validation: {every: 0}
log: {every: 4}
checkpoint: {every: 0}
EOF
sed '$a parallel: auto' tiny.yaml >auto.yaml

train 1 run_dir=alone
expected=$(hash_of alone)

# train_auto RANKS KEY=VALUE...: as train, of the config that leaves the layout open
train_auto() {
    ranks=$1
    shift
    timeout -k 5 "${limit:-100}" "$MPIEXEC" -n "$ranks" "$CAIRN" train auto.yaml "$@" >train.log 2>&1
}
# told PATTERN: passes if the last training says so
told() { grep -Eq "$2" train.log && pass "$1" || fail "$1" train.log; }
# chosen RUN KEY: in the merged config
chosen() { sed -n "/^parallel:/,/^[a-z]*:\$/s/^  $2: //p" "$1/config.yaml"; }

for ranks in 1 2 4; do
    train_auto $ranks run_dir=auto$ranks
    same "auto on $ranks has the bits of one rank" auto$ranks
done
told 'rank 0 tells what was chosen and why' 'parallel: auto chose data 4, .*: by plan [0-9]+ of [0-9]+ MB a rank and [0-9.e-]+ s a step; [0-9]+ layouts'
told 'and what would have been next' 'next best: .*: [0-9]+ MB, [0-9.e-]+ s'
check 'the merged config says that it was chosen' test "$(chosen auto4 auto)" = '"data tensor context pipeline expert chunks schedule zero sequence recompute"'
check 'and what' test "$(chosen auto4 data)" = 4

# Libraries take some 97 MB.
train_auto 4 run_dir=tight parallel.memory=102
same 'where memory is short, others are chosen, of the same bits' tight
check 'stages and ZeRO' test "$(chosen tight pipeline)" -gt 1 -a "$(chosen tight zero)" -ge 1
train_auto 4 run_dir=given parallel.memory=106 parallel.pipeline=1 parallel.tensor=1
same 'what is given stays: one stage' given
check 'blocks are computed again then' test "$(chosen given pipeline) $(chosen given tensor) $(chosen given recompute)" = '1 1 block'
check 'the list tells what was chosen' test "$(chosen given auto)" = '"data context expert chunks schedule zero sequence recompute"'
train_auto 4 run_dir=none parallel.memory=98
status=$?
check 'too little is refused' test $status = 2
told 'with what is missing' 'error: parallel: auto finds no layout of 4 ranks that fits the 98 MB of a rank: the nearest \(.*\) needs [0-9.]+ MB more'

# As if it had been given; a restart keeps what changes sums.
train_auto 4 run_dir=halves steps=2 parallel.memory=100
check 'products are shared in very little memory' test "$(chosen halves tensor)" = 2
written="parallel.tensor=2 parallel.pipeline=$(chosen halves pipeline) parallel.chunks=$(chosen halves chunks) \
    parallel.schedule=$(chosen halves schedule) parallel.sequence=$(chosen halves sequence) parallel.zero=$(chosen halves zero) \
    parallel.recompute=$(chosen halves recompute)"
train 4 run_dir=written $written
expected=$(hash_of written)
train_auto 2 run_dir=halves
same 'a restart on fewer ranks keeps the tensor axis, and so the bits' halves
check 'with another layout' test "$(chosen halves tensor) $(chosen halves pipeline) $(chosen halves data)" = '2 1 1'
cp -r halves odd
train_auto 3 run_dir=odd steps=6
told 'where that does not fit, it says so' 'warning: parallel: auto finds no layout of 3 ranks with the checkpoint.s tensor 2 and context 1'
told 'and goes on' '^done: 6 steps'

# Numbers of copies change some sums, too.
train_auto 4 run_dir=fast steps=2 parallel.reduce=fast parallel.data=2 parallel.tensor=1
train_auto 4 run_dir=fast parallel.reduce=fast
check 'a restart keeps the copies where they change sums' test "$(chosen fast data) $(chosen fast pipeline)" = '2 2'
train_auto 3 run_dir=fast steps=6 parallel.reduce=fast
told 'where as many do not fit, it says so' 'warning: parallel: auto finds no layout of 3 ranks with the checkpoint.s data 2: other numbers of copies change the result'
train_auto 1 run_dir=broken steps=2
for file in broken/checkpoints/step-*/state.h5; do : >"$file"; done
train_auto 1 run_dir=broken
told 'a checkpoint of which the layout cannot be read is told' 'warning: parallel: auto does not know the checkpoint.s layout, another one may change the last bits: '

# Experts are shared where memory is short, and a restart keeps how, on fewer ranks too.
experts='model.experts=2 parallel.tensor=1 parallel.context=1 parallel.pipeline=1 parallel.zero=0'
train_auto 4 run_dir=shared steps=2 $experts parallel.memory=112
told 'experts are shared' 'parallel: auto chose data 4, expert 2, '
train 4 run_dir=written_experts model.experts=2 parallel.expert=2
expected=$(hash_of written_experts)
cp -r shared fewer
train_auto 4 run_dir=shared $experts
same 'a restart keeps the groups, and so the bits' shared
train_auto 2 run_dir=fewer $experts
check 'on fewer ranks too' test "$(chosen fewer expert) $(chosen fewer data)" = '2 2'
told 'where other microbatches meet, and it is said' 'warning: parallel: auto finds no layout of 2 ranks with the checkpoint.s data 4: other numbers of copies'
train_auto 1 run_dir=shared steps=6 $experts
told 'where they do not fit, it says so' 'warning: parallel: auto finds no layout of 1 ranks with the checkpoint.s tensor 1 and context 1 and expert 2'

# What is given need not be what it would look at.
train_auto 3 run_dir=thirds parallel.context=3
told 'sequences shared by three' '^done: 4 steps'
train_auto 2 run_dir=uneven model.heads=3 model.width=48 parallel.tensor=2
told 'three heads on two ranks' '^done: 4 steps'

train_auto 2 run_dir=local parallel.sync=local parallel.local_steps=2
told 'local steps, too' '^done: 4 steps'
check 'which share no state' test "$(chosen local zero)" = 0

# What it cannot plan.
train_auto 2 run_dir=none parallel.sync=server
told 'parameter servers' 'error: parallel: auto does not plan parameter servers; with parallel.sync server give the layout'
train_auto 2 run_dir=none precision=float64 device=reference
told 'float64' 'error: parallel: auto: precision float64 is for tests; no plan is made for it'
CAIRN_MPIEXEC=$MPIEXEC
export CAIRN_MPIEXEC
expected=$(hash_of alone)
timeout -k 5 100 "$CAIRN" run auto.yaml supervise.launcher=mpiexec supervise.ranks=3 run_dir=supervised >train.log 2>&1
same 'cairn run takes any number of ranks' supervised
finish
