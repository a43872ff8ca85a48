#!/bin/sh
# cairn config: what is shown, what is refused and how.
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
cd "$scratch" || exit 99

cat >gpt.yaml <<'END'
data:
  path: tokens.h5
model:
  layers: 3   # small
  width: 96
END
cat >out <<'END'
name: gpt
run_dir: runs/gpt
seed: 1
steps: 50
device: auto
precision: float32
float8: none
threads: 0
instruction_set: auto
algorithms: timed
trace: false
data:
  path: tokens.h5
  prefetch: 4
batch:
  microbatches: 8
  samples: 4
model:
  family: gpt
  layers: 3
  width: 128
  heads: 4
  context: 128
  vocabulary: 0
  tied: true
  dropout: 0.1
  experts: 0
  expert_choices: 2
  capacity_factor: 1.25
  balance_loss: 0.01
  router_z_loss: 0
optimizer:
  learning_rate: 0.001
  min_learning_rate: 0.0001
  warmup_steps: 50
  decay_steps: 0
  beta1: 0.9
  beta2: 0.95
  epsilon: 1e-08
  weight_decay: 0.1
  clip_norm: 1
  rounding: nearest
parallel:
  auto: none
  memory: 0
  data: auto
  tensor: 1
  context: 1
  pipeline: 1
  expert: 1
  chunks: 1
  schedule: 1f1b
  zero: 0
  sequence: false
  recompute: none
  reduce: canonical
  links: auto
  overlap: true
  compress: none
  compress_ratio: 0.01
  compress_rank: 4
  sync: bulk
  local_steps: 16
  outer: average
  outer_rate: 0
  outer_momentum: 0.9
  servers: 1
  staleness: 0
validation:
  every: 100
  microbatches: 8
log:
  every: 10
checkpoint:
  every: 100
  keep: 3
  on_full: continue
supervise:
  launcher: auto
  mpi: pmix
  ranks: 0
  min_ranks: 1
  max_restarts: 3
  heartbeat_seconds: 1
  start_seconds: 120
  silent_seconds: 5
  hang_factor: 20
  hang_seconds: 10
END
cp out merged.yaml
: >err
expect 'show merges file, command line and defaults' 0 "$CAIRN" config show gpt.yaml model.width=128 model.dropout=.1 steps=50
cp merged.yaml out
expect 'what show prints reads back' 0 "$CAIRN" config show merged.yaml name=gpt
cp merged.yaml out
expect 'also from standard input' 0 sh -c '"$1" config show - <merged.yaml' - "$CAIRN"
: >out
: >err
expect 'check is silent about a good file' 0 "$CAIRN" config check gpt.yaml

: >out
echo "cairn: error: gpt.yaml: model.heads: 5 does not divide model.width, 96" | sed 's/gpt.yaml/command line/' >err
expect 'keys that do not fit' 2 "$CAIRN" config check gpt.yaml model.heads=5
printf 'data: {path: x}\nmodel:\n  layer: 3\n' >slip.yaml
: >out
echo "cairn: error: slip.yaml:3:3: unknown key 'model.layer'; did you mean 'model.layers'?" >err
expect 'an unknown key' 2 "$CAIRN" config check slip.yaml
printf 'data: {path: x}\nmodel: {layers: many}\n' >type.yaml
: >out
echo "cairn: error: type.yaml:2:17: model.layers: expected a whole number from 1 to 4096, found 'many'" >err
expect 'a wrong type' 2 "$CAIRN" config show type.yaml
: >out
echo "cairn: error: cannot open none.yaml: No such file or directory" >err
expect 'a missing file' 2 "$CAIRN" config check none.yaml
: >empty.yaml
: >out
echo "cairn: error: empty.yaml: data.path must be given: the dataset to train on (see 'cairn data import --help')" >err
expect 'an empty file lacks the path' 2 "$CAIRN" config check empty.yaml
: >out
: >err
expect 'the path from the command line' 0 "$CAIRN" config check empty.yaml data.path=x
: >out
echo "cairn: error: config check needs a FILE; usage: cairn config show|check FILE [KEY=VALUE ...]" >err
expect 'no file' 2 "$CAIRN" config check
: >out
echo "cairn: error: usage: cairn config show|check FILE [KEY=VALUE ...]" >err
expect 'an unknown word' 2 "$CAIRN" config chekc gpt.yaml

: >err
expect 'the reference' 0 "$CAIRN" config --help
for key in $(awk '/^[a-z_]*:$/ { section = substr($1, 1, length($1) - 1) "."; next } /^  / { print section substr($1, 1, length($1) - 1); next }
                  { print substr($1, 1, length($1) - 1) }' merged.yaml); do
    grep -qx "  $key" got.out || echo "$key"
done >missing
check 'the reference has every key' sh -c '! grep .' - <missing
finish
