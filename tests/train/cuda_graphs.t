#!/bin/sh
# Kernels that a GPU is given many at once, as CUDA graphs: the same bits as one by one.
. "$CAIRN_SOURCE/tests/train/cuda.sh"
export CUDA_ON_CPU_GRAPHS="$scratch/given"

# graphs: how many the GPUs were given since it was asked last
graphs() {
    [ -e given ] && grep -c launch given || echo 0
    rm -f given
}

# numbers_of RUN: all of its losses
numbers_of() { sed 's/.*"kind":"\([a-z]*\)","step":\([0-9]*\),"[a-z_]*loss":\([^,]*\),.*/\1 \2 \3/' "$1/metrics.jsonl" | grep -v checkpoint; }

# alike NAME RANKS KEY=VALUE...: passes if kernels given as graphs find the numbers that kernels given one by one do
alike() {
    name=$1
    shift
    rm -f given
    CAIRN_CUDA_GRAPHS=0 train "$@" run_dir=single device=cuda
    expected=$(hash_of single)
    alone=$(graphs)
    train "$@" run_dir=graphs device=cuda
    numbers_of single >single.numbers
    numbers_of graphs >graphs.numbers
    cat graphs.numbers >>train.log
    [ -s single.numbers ] && cmp single.numbers graphs.numbers >>train.log && [ "$(hash_of graphs)" = "$expected" ] && pass "$name" || fail "$name" train.log
    [ ! -e given ] || sort given | uniq -c >>train.log
    if [ "$emulated" = yes ]; then
        given=$(graphs)
        [ "$alone" -eq 0 ] && [ "$given" -gt 0 ] && ! grep -q 'could not record' train.log && pass "$name: in graphs, $given" || fail "$name: in graphs" train.log
    fi
    rm -rf single graphs given
}

train 1 run_dir=first device=cuda || { fail "a GPU trains" train.log; finish; exit; }
grep -q 'CUDA on the processor' train.log && emulated=yes || emulated=no
train 1 run_dir=processor device=cpu
near "kernels of one GPU draw what a processor draws, step by step" first processor 0.02
alike "a training with validation, in bfloat16" 1 precision=bfloat16 validation.every=2 validation.microbatches=2
alike "without dropout, in bfloat16" 1 model.dropout=0 precision=bfloat16
if [ "$emulated" = yes ]; then # 4 microbatches of 4 steps, but for the first one's, whose kernels go one by one
    [ "$given" -eq 30 ] && pass "a microbatch is two graphs, one forward, one backward" || fail "a microbatch is two graphs: $given" train.log
fi
alike "with activations computed again" 1 parallel.recompute=block
alike "two ranks with zero 1" 2 parallel.zero=1
alike "two stages of two pieces each" 2 model.layers=4 parallel.pipeline=2 parallel.schedule=interleaved parallel.chunks=2
alike "two stages with split backward passes" 2 parallel.pipeline=2 parallel.schedule=zero-bubble
if [ "$emulated" = yes ]; then
    CUDA_ON_CPU_DEVICES=2 alike "two GPUs joined by NCCL, with zero 3" 2 parallel.zero=3 parallel.links=nccl

    # Where kernels go one by one again: nothing is lost but time.
    expected=$(hash_of first)
    rm -f given
    train 1 run_dir=traced device=cuda trace=true
    same "a trace has each kernel: the same bits" traced
    [ "$(graphs)" -eq 0 ] && pass "and no graphs" || fail "and no graphs" train.log
    CUDA_ON_CPU_NO_GRAPHS=1 train 1 run_dir=unable device=cuda
    same "a driver that cannot record: the same bits" unable
    [ "$(grep -c 'could not record' train.log)" -eq 1 ] && pass "and one warning" || fail "and one warning" train.log
    cp -r first failing
    rm -rf failing/checkpoints/step-00000004
    CUDA_ON_CPU_FAILS_AT=400 train 1 run_dir=failing device=cuda
    [ $? -eq 1 ] && grep -q 'error: step 3: .*GPU' train.log && [ ! -e failing/checkpoints/step-00000004 ] &&
        pass "a kernel of a graph that fails ends the run with one error" || fail "a kernel of a graph that fails ends the run with one error" train.log
fi

# Inference: one forward pass again and again.
CAIRN_CUDA_GRAPHS=0 "$CAIRN" generate first device=cuda --tokens 30 --seed 5 --prompt 'The ' >single.txt 2>single.log
"$CAIRN" generate first device=cuda --tokens 30 --seed 5 --prompt 'The ' >graphs.txt 2>graphs.log
[ -s single.txt ] && cmp -s single.txt graphs.txt && pass "generate writes the same" || fail "generate writes the same" graphs.log
finish
