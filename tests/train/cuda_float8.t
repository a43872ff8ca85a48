#!/bin/sh
# Linear layers in float8 on GPUs: losses near bfloat16's, the same bits however ranks share the work, and what it is refused without.
. "$CAIRN_SOURCE/tests/train/cuda.sh"
sed -i -e 's/context: 20/context: 32/' -e 's/dropout: 0.1/dropout: 0/' tiny.yaml # rows are a multiple of 16
echo 'precision: bfloat16' >>tiny.yaml

train 1 run_dir=plain device=cuda
grep -q 'CUDA on the processor' train.log && emulated=yes || emulated=no
train 1 run_dir=one device=auto float8=linear
if grep -q 'needs a GPU of compute capability' train.log; then skip "float8" "the GPU is an older one"; finish; exit; fi
near "float8 trains near bfloat16" one plain
grep -q 'cuda bfloat16 .* float8' train.log && pass "the log tells float8" || fail "the log tells float8" train.log
expected=$(hash_of one)
[ "$(hash_of plain)" != "$expected" ] && pass "and to other weights" || fail "and to other weights" train.log
# Of a block's four linear layers: the forward products, and those of both gradients.
[ "$(grep -c ' bias .* e4m3 e4m3"' one/products.json) $(grep -c ' acc .* e5m2 e4m3"' one/products.json) $(grep -c ' e5m2 e4m3"' one/products.json)" = '4 4 8' ] &&
    pass "gradients are of E5M2, all else of E4M3" || fail "gradients are of E5M2, all else of E4M3" one/products.json
CUDA_ON_CPU_SEED=7 train 2 run_dir=two device=cuda float8=linear parallel.zero=1
same "2 ranks with zero 1 end with the same weights" two
train 4 run_dir=four device=cuda float8=linear
same "so do 4 ranks" four
train 2 run_dir=bubble device=cuda float8=linear parallel.pipeline=2 parallel.schedule=zero-bubble
same "2 stages whose backward passes are split" bubble
train 2 run_dir=chain device=cuda float8=linear steps=2
train 1 run_dir=chain device=cuda float8=linear parallel.recompute=block
same "and a restart on 1 rank after 2, with activations computed again" chain
check "moments included" "$CAIRN" ckpt diff one/checkpoints/step-00000004 chain/checkpoints/step-00000004
train 2 run_dir=tensor device=cuda float8=linear parallel.tensor=2 parallel.sequence=true
near "tensor and sequence parallelism" tensor one

# A context of 20 tokens: products of such rows are those of bfloat16, and all others of a step have that side too.
train 1 run_dir=odd device=cuda float8=linear model.context=20 steps=2
train 1 run_dir=oddplain device=cuda model.context=20 steps=2
expected=$(hash_of oddplain)
same "sides that 16 does not divide are computed as without" odd

cp -r one changed
train 1 run_dir=changed device=cuda steps=5
grep -q 'float8 none (was linear)' train.log && grep -q 'numerics' train.log && pass "a restart without it says so" || fail "a restart without it says so" train.log
"$CAIRN" generate one -n 5 -t 0 -p the device=cuda >text.log 2>&1 && [ -s text.log ] && pass "generate" || fail "generate" text.log
"$CAIRN" generate one -n 5 -t 0 -p the device=cpu >text.log 2>&1
[ $? -eq 2 ] && grep -q 'float8: none goes without' text.log && pass "not on a processor" || fail "not on a processor" text.log
"$CAIRN" generate one -n 5 -t 0 -p the device=cpu float8=none >text.log 2>&1 && [ -s text.log ] && pass "but without float8" || fail "but without float8" text.log

refused "float32 is refused" 2 'goes with precision: bfloat16' 1 run_dir=x device=cuda precision=float32 float8=linear
refused "a processor too" 2 'float8: linear needs a GPU' 2 run_dir=x device=cpu float8=linear
refused "as is the reference" 2 'float8: linear needs a GPU' 1 run_dir=x device=reference float8=linear
refused "ranks that auto would leave to processors" 1 'float8: linear needs a GPU.*would share a GPU' 2 run_dir=x device=auto float8=linear
refused "what GPUs do not do" 1 'float8: linear needs a GPU.*parallel.compress is not done' 1 run_dir=x device=auto float8=linear parallel.compress=bf16
train 1 run_dir=cpu device=cpu steps=2
refused "a run that auto keeps to processors" 2 'made on processors, and device: auto keeps' 1 run_dir=cpu device=auto float8=linear
if [ $emulated = yes ]; then
    export CUDA_ON_CPU_CAPABILITY=89
    refused "an older GPU is refused" 2 'capability 9.0 or later, and .* has 8.9' 2 run_dir=x device=cuda float8=linear
    refused "by auto too" 1 'float8: linear needs a GPU.*has 8.9' 1 run_dir=x device=auto float8=linear
    train 1 run_dir=older device=cuda
    near "and trains in bfloat16" older plain 20
    unset CUDA_ON_CPU_CAPABILITY
    export CUDA_ON_CPU_DEVICES=0
    refused "as is none" 1 'float8: linear needs a GPU.*no NVIDIA GPU' 2 run_dir=x device=auto float8=linear
else
    skip "no GPU, and an older one" "a GPU cannot be told to be it"
fi
finish
