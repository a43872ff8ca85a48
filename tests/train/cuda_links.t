#!/bin/sh
# Ranks whose GPUs exchange by NCCL: here by tests/cuda_on_cpu/nccl*, on so many GPUs of the emulation.
. "$CAIRN_SOURCE/tests/train/cuda.sh"
export CUDA_ON_CPU_DEVICES=4

# linked NAME RUN: passes if the log tells NCCL and the run has the expected weights
linked() {
    grep -q 'GPUs exchange by NCCL' train.log && [ "$(hash_of "$2")" = "$expected" ] && pass "$1" || fail "$1" train.log
}

# alike NAME RANKS KEY=VALUE...: passes if a run by NCCL has the bits of one by way of the hosts
alike() {
    name=$1
    shift
    train "$@" run_dir=host device=cuda parallel.links=host
    expected=$(hash_of host)
    train "$@" run_dir=nccl device=cuda parallel.links=nccl
    linked "$name" nccl
    rm -rf host nccl
}

train 1 run_dir=one device=cuda || { fail "a GPU trains" train.log; finish; exit; }
expected=$(hash_of one)
if ! grep -q 'CUDA on the processor' train.log; then # NCCL may not take two ranks on one GPU even so
    train 2 run_dir=two device=cuda parallel.links=nccl
    case $? in
        0) linked "2 ranks joined by NCCL" two ;;
        *) skip "2 ranks joined by NCCL" "$(grep -m 1 'error:' train.log)" ;;
    esac
    finish
    exit
fi
train 2 run_dir=two device=auto
linked "2 GPUs joined by NCCL, found by auto, end with one GPU's weights" two
train 3 run_dir=three device=cuda parallel.zero=1
linked "3 with zero 1 too" three
train 4 run_dir=four device=cuda parallel.zero=2
linked "4 with zero 2" four
train 2 run_dir=chain device=cuda parallel.zero=3 steps=2
train 4 run_dir=chain device=cuda parallel.zero=3
linked "4 with zero 3, restarted after 2" chain
check "moments included" "$CAIRN" ckpt diff one/checkpoints/step-00000004 chain/checkpoints/step-00000004
train 4 run_dir=pipe device=cuda parallel.pipeline=2 parallel.overlap=false
linked "2 stages of a pipeline, twice" pipe
train 1 run_dir=alone device=cuda parallel.zero=3
same "zero 3 of one GPU needs no NCCL" alone

train 1 run_dir=bf16one device=cuda precision=bfloat16
expected=$(hash_of bf16one)
train 3 run_dir=bf16 device=cuda precision=bfloat16 parallel.zero=3
linked "bfloat16 on 3 GPUs with zero 3" bf16
alike "tensor and sequence parallelism: the bits of an exchange by way of the hosts" 4 parallel.tensor=2 parallel.sequence=true
alike "tensor parallelism in bfloat16" 2 parallel.tensor=2 precision=bfloat16
alike "a ring of sequences' parts" 3 parallel.context=3
alike "experts" 2 model.experts=4 model.expert_choices=2 parallel.expert=2

# One rank is idle in the last pass, but its experts are not.
alike "an idle rank's experts" 2 model.experts=4 parallel.expert=2 batch.microbatches=3
alike "a pipeline of two, each of two tensor ranks" 4 parallel.pipeline=2 parallel.tensor=2
alike "two stages of two pieces each, which form a ring" 2 model.layers=4 parallel.pipeline=2 parallel.schedule=interleaved parallel.chunks=2 validation.every=2 \
    validation.microbatches=1
alike "three stages with split backward passes" 3 model.layers=3 parallel.pipeline=3 parallel.schedule=zero-bubble batch.microbatches=6

train 3 run_dir=fast device=cuda parallel.reduce=fast
grep -q 'GPUs exchange by NCCL' train.log && near "sums in NCCL's own order" fast one || fail "sums in NCCL's own order" train.log
train 3 run_dir=fast2 device=cuda parallel.reduce=fast parallel.zero=2
near "in rounds too" fast2 one

expected=$(hash_of one)
export CUDA_ON_CPU_DEVICES=1
train 2 run_dir=shared device=cuda
grep -q 'GPUs exchange' train.log && fail "ranks that share a GPU exchange by way of their host" train.log || same "ranks that share a GPU exchange by way of their host" shared
rm -rf shared
train 2 run_dir=shared device=cuda parallel.links=nccl
linked "unless NCCL is asked for" shared
export CUDA_ON_CPU_DEVICES=4

export CUDA_ON_CPU_NO_NCCL=1
train 2 run_dir=without device=cuda
grep -q 'warning: GPUs exchange by way of their hosts, which is slower: .*NCCL' train.log && pass "without NCCL there is a warning" ||
    fail "without NCCL there is a warning" train.log
same "and the same weights" without
refused "links: nccl without it is one error" 2 'NCCL' 2 run_dir=x device=cuda parallel.links=nccl
unset CUDA_ON_CPU_NO_NCCL

# A link of rank 1 fails in the second half of the run.
cp -r one failing
rm -rf failing/checkpoints/step-00000004
timeout -k 5 100 "$MPIEXEC" -n 1 "$CAIRN" train tiny.yaml run_dir=failing device=cuda : \
    -n 1 -env CUDA_ON_CPU_NCCL_FAILS_AT 5 "$CAIRN" train tiny.yaml run_dir=failing device=cuda >train.log 2>&1
status=$?
[ $status -eq 1 ] && [ "$(grep -c 'error:' train.log)" -ge 1 ] && grep -q 'exchange between GPUs failed' train.log && [ ! -e failing/checkpoints/step-00000004 ] &&
    pass "a link that fails ends the run, and without a checkpoint" || fail "a link that fails ends the run, and without a checkpoint" train.log
train 2 run_dir=failing device=cuda
linked "the next start goes on to the same bits" failing
finish
