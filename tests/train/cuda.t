#!/bin/sh
# Training with device: cuda: by the plug-in that CAIRN_PLUGIN_DIR names, else by the processor in a GPU's place (tests/cuda_on_cpu).
. "$CAIRN_SOURCE/tests/train/cuda.sh"

train 1 run_dir=cpu device=cpu
train 1 run_dir=one device=cuda
grep -q 'CUDA on the processor' train.log && emulated=yes || emulated=no
near "a GPU trains as a processor does" one cpu
grep -q 'cuda float32' train.log && pass "the log tells the GPU" || fail "the log tells the GPU" train.log
expected=$(hash_of one)
CUDA_ON_CPU_SEED=7 train 1 run_dir=again device=cuda
same "again, with threads in another order, the same bits" again
train 2 run_dir=two device=cuda
same "2 ranks on one GPU end with the same weights" two
train 4 run_dir=four device=cuda parallel.zero=1
same "4 ranks with zero 1 too" four
train 2 run_dir=pipe device=cuda parallel.pipeline=2
same "and 2 stages of a pipeline" pipe
train 2 run_dir=bubble device=cuda parallel.pipeline=2 parallel.schedule=zero-bubble
same "and with their backward passes split" bubble
train 2 run_dir=chain device=cuda steps=2
train 1 run_dir=chain device=cuda steps=4
same "so does a restart on 1 rank after 2" chain
check "moments included" "$CAIRN" ckpt diff one/checkpoints/step-00000004 chain/checkpoints/step-00000004

train 1 run_dir=bf16cpu device=cpu precision=bfloat16
train 1 run_dir=bf16 device=cuda precision=bfloat16
near "bfloat16 is near a processor's" bf16 bf16cpu 20
expected=$(hash_of bf16)
train 2 run_dir=bf16two device=cuda precision=bfloat16 parallel.zero=1
same "bfloat16 on 2 ranks with zero 1: the same weights" bf16two

set -- device=cuda precision=bfloat16 optimizer.rounding=stochastic
train 1 run_dir=stochastic "$@"
near "stochastic rounding is near rounding to nearest" stochastic bf16 20
expected=$(hash_of stochastic)
train 2 run_dir=stochastictwo "$@" parallel.zero=1 steps=2
train 2 run_dir=stochastictwo "$@" parallel.pipeline=2
same "stochastic rounding on 2 ranks with zero 1, then in 2 stages: the same weights" stochastictwo

# Without dropout, attention is cuDNN's where it is there, as it always is where GPUs are emulated.
train 1 run_dir=plaincpu device=cpu precision=bfloat16 model.dropout=0
train 1 run_dir=plain device=cuda precision=bfloat16 model.dropout=0
[ $emulated = no ] || grep -q 'cuDNN 9' train.log && pass "without dropout cuDNN has a part" ||
    fail "without dropout cuDNN has a part" train.log
near "and the losses are near a processor's" plain plaincpu 20
expected=$(hash_of plain)
CUDA_ON_CPU_SEED=7 train 2 run_dir=plaintwo device=cuda precision=bfloat16 model.dropout=0 parallel.zero=1
same "2 ranks have the same weights" plaintwo
grep -q 'ranks differ' train.log && fail "and are alike" train.log || pass "and are alike"
train 2 run_dir=plainchain device=cuda precision=bfloat16 model.dropout=0 steps=2
train 1 run_dir=plainchain device=cuda precision=bfloat16 model.dropout=0 parallel.recompute=block
same "so has a restart on one, with activations computed again" plainchain
if [ $emulated = yes ]; then
    grep -q numerics train.log && fail "its numbers are those of the checkpoint" train.log || pass "its numbers are those of the checkpoint"
    set -- train tiny.yaml device=cuda precision=bfloat16 model.dropout=0 run_dir=plainmixed
    timeout -k 5 100 "$MPIEXEC" -n 1 "$CAIRN" "$@" : -n 1 -env CAIRN_CUDNN 0 "$CAIRN" "$@" >train.log 2>&1
    grep -q 'ranks differ in their numerics: .* here, .* cuDNN .* on rank 0' train.log && pass "a rank that lacks it says so" ||
        fail "a rank that lacks it says so" train.log
    CAIRN_CUDNN=0 train 1 run_dir=plainchain device=cuda precision=bfloat16 model.dropout=0 steps=5
    grep -q 'made under other numerics (.*cuDNN.*), this run has .*: results' train.log &&
        pass "without cuDNN a restart says that bits may differ" || fail "without cuDNN a restart says that bits may differ" train.log
fi
expected=$(hash_of one)

train 2 run_dir=tensor device=cuda parallel.tensor=2 parallel.sequence=true
near "tensor and sequence parallelism" tensor cpu
train 2 run_dir=context device=cuda parallel.context=2
near "a ring of sequences' parts" context cpu
train 1 run_dir=recompute device=cuda parallel.recompute=block
same "activations computed again" recompute

train 1 run_dir=expertscpu device=cpu model.experts=4 model.expert_choices=2
train 1 run_dir=experts device=cuda model.experts=4 model.expert_choices=2
near "experts" experts expertscpu
train 2 run_dir=expertstwo device=cuda model.experts=4 model.expert_choices=2 parallel.expert=2
near "experts on 2 ranks" expertstwo expertscpu
# With 3 microbatches on 2 ranks one is idle in the last pass, but its experts are not.
train 1 run_dir=idlecpu device=cpu model.experts=4 batch.microbatches=3
train 2 run_dir=idle device=cuda model.experts=4 parallel.expert=2 batch.microbatches=3
near "an idle rank's experts work for the other" idle idlecpu

refused "zero 2 is refused where GPUs have no NCCL between them" 2 'parallel.zero 2 on the GPUs of several ranks needs NCCL' 2 run_dir=x device=cuda parallel.zero=2
refused "compression is refused" 2 'parallel.compress is not done on GPUs yet' 2 run_dir=x device=cuda parallel.compress=topk
refused "and float64" 2 'float64' 1 run_dir=x device=cuda precision=float64

train 1 run_dir=auto device=auto
same "auto takes the GPU" auto
expected=$(hash_of cpu)
train 2 run_dir=crowded device=auto
grep -q '1 of 2 ranks would share a GPU' train.log && pass "but not for two ranks" || fail "but not for two ranks" train.log
same "which train on processors" crowded
train 1 run_dir=compressed device=auto parallel.compress=bf16
grep -q 'cpu float32' train.log && pass "as does what GPUs do not do yet" || fail "as does what GPUs do not do yet" train.log
if [ $emulated = yes ]; then
    CUDA_ON_CPU_DEVICES=0 train 2 run_dir=none device=auto
    grep -q 'auto takes processors: there is no NVIDIA GPU' train.log && pass "auto says why it takes processors" || fail "auto says why it takes processors" train.log
    same "and trains there" none
    export CUDA_ON_CPU_DEVICES=0
    refused "a run that GPUs began does not go on without them unasked" 1 'made on GPUs' 1 run_dir=auto device=auto steps=5
    refused "cuda without a GPU is one clear error" 1 'no NVIDIA GPU' 2 run_dir=x device=cuda
    unset CUDA_ON_CPU_DEVICES
    export CUDA_ON_CPU_DRIVER=11000
    refused "so is a driver that is too old" 1 'driver' 1 run_dir=x device=cuda
    unset CUDA_ON_CPU_DRIVER
    timeout -k 5 100 "$MPIEXEC" -n 1 "$CAIRN" train tiny.yaml run_dir=some : -n 1 -env CUDA_ON_CPU_DEVICES 0 "$CAIRN" train tiny.yaml run_dir=some >train.log 2>&1
    grep -q 'only 1 of 2 ranks have a GPU' train.log && pass "auto takes no GPU that not all ranks have" || fail "auto takes no GPU that not all ranks have" train.log
    same "and trains on processors" some

    expected=$(hash_of one)
    if [ "$(nproc)" -ge 2 ] && [ "$(taskset -c 0,1 nproc 2>/dev/null)" = 2 ]; then
        HWLOC_XMLFILE=$CAIRN_SOURCE/tests/unit/near.xml HWLOC_THISSYSTEM=1 train 2 run_dir=near device=cuda
        grep -q '2 of 2 ranks bound to the cores near their GPUs' train.log && pass "ranks go near their GPUs" || fail "ranks go near their GPUs" train.log
        same "and compute the same there" near
    else
        skip "ranks go near their GPUs" "this takes the first two cores"
    fi

    # The 40th kernel of the process fails: in its first step, which is the third of the run.
    cp -r one failing
    rm -rf failing/checkpoints/step-00000004
    CUDA_ON_CPU_FAILS_AT=40 train 1 run_dir=failing device=cuda
    status=$?
    [ $status -eq 1 ] && grep -q 'error: step 2: .*GPU' train.log && [ ! -e failing/checkpoints/step-00000004 ] &&
        pass "a GPU that fails ends the run with one error, and without a checkpoint" ||
        fail "a GPU that fails ends the run with one error, and without a checkpoint" train.log
    train 1 run_dir=failing device=cuda
    expected=$(hash_of one)
    same "the next start goes on to the same bits" failing
else
    skip "no GPU, one that fails, an old driver" "a GPU cannot be told to"
fi

"$CAIRN" eval one device=cuda >eval.log 2>&1
"$CAIRN" eval one device=cpu >evalcpu.log 2>&1
[ -s eval.log ] && [ "$(cut -c1-20 eval.log)" = "$(cut -c1-20 evalcpu.log)" ] && pass "eval on a GPU" || { cat evalcpu.log >>eval.log; fail "eval on a GPU" eval.log; }
"$CAIRN" generate one -n 5 -t 0 -p the device=cuda >text.log 2>text.err
"$CAIRN" generate one -n 5 -t 0 -p the device=cpu >textcpu.log 2>text.err
[ -s text.log ] && cmp -s text.log textcpu.log && pass "generate on a GPU" || { cat textcpu.log >>text.log; fail "generate on a GPU" text.log; }
train 1 run_dir=chain device=cpu threads=0 steps=5
grep -q 'numerics' train.log && ! grep -q 'as the checkpoint was made with' train.log && grep -q 'goes on from the checkpoint of step 4' train.log &&
    pass "a GPU's checkpoint goes on on a processor, which says that bits may differ" ||
    fail "a GPU's checkpoint goes on on a processor, which says that bits may differ" train.log
finish
