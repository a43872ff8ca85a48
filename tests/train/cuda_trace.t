#!/bin/sh
# The trace of a training on GPUs: what they carry out when, and the ranges that a profiler is shown.
. "$CAIRN_SOURCE/tests/train/cuda.sh"
facts=$CAIRN_BUILD/tests/train/trace_facts
if [ ! -x "$facts" ]; then # a bundle for GPUs has it not
    echo "1..0 # SKIP there is no $facts"
    exit 0
fi

# traced RANKS KEY=VALUE...: a run in run/, its facts in facts.log
traced() {
    rm -rf run
    train "$@" run_dir=run device=cuda trace=true && "$facts" run/trace.json >facts.log 2>>train.log
    status=$?
    cat facts.log >>train.log
    return $status
}

explain() { cat train.log; }

# each_step RANKS FIRST LAST COUNT NAME...: every rank has so many spans of the names, one or more together, in each of its steps
each_step() {
    ranks=$1 first=$2 last=$3 count=$4
    shift 4
    sed -n "s/^device: \([0-9]* [0-9]*\) kernels $*\( [0-9]*\)$/\1\2/p" facts.log | awk -v ranks="$ranks" -v first="$first" -v last="$last" -v count="$count" '
        { found[$1 " " $2] += $3; bad = bad || $2 < first || $2 > last }
        END { for (r = 0; r < ranks; r++) for (s = first; s <= last; s++) bad = bad || found[r " " s] != count; exit bad }'
}

linked_lanes() { # 2 ranks, 4 steps
    for rank in 0 1; do
        [ "$(grep -c "^device: $rank [0-4] links an exchange between GPUs [1-9]" facts.log)" -ge 4 ] || return 1
    done
}

in_time() { grep -q '^of a device: overlaps 0, misplaced 0$' facts.log && ! grep -q ', kernels 0' facts.log; }

train 1 run_dir=plain device=cuda
grep -q 'CUDA on the processor' train.log && emulated=yes || emulated=no
expected=$(hash_of plain)
"$CAIRN" ckpt info plain >/dev/null && [ ! -e plain/trace ]
check "a run that is not asked for a trace writes none" [ $? -eq 0 ]

# Of 4 microbatches and 2 layers a step: 12 products a layer forward and backward, 3 of the classifier.
check "a GPU trains with a trace" traced 1
same "the trace changes no bit" run
check "kernels of a lane follow one another, between the processor's calls and its waits" in_time
check "attention is there for each layer and microbatch" each_step 1 0 3 8 attention
check "so are its gradients" each_step 1 0 3 8 "the gradients of attention's keys"
check "and all products, with what goes through them" each_step 1 0 3 108 'a product.*'
check "the norm is there once a step" each_step 1 0 3 1 'sums of squares'
check "so is the update, the last one's too" each_step 1 1 4 1 AdamW
check "copies are in it" each_step 1 0 3 12 'a copy to the GPU'

check "a trace in bfloat16" traced 1 precision=bfloat16
check "its kernels are in time" in_time
check "products go through GELU there and are named so" each_step 1 0 3 8 "a product and GELU"
check "products are as many" each_step 1 0 3 108 "a product[a-zA-Z ']*"

check "2 ranks with a trace, in 2 stages" traced 2 parallel.pipeline=2 parallel.schedule=zero-bubble validation.every=2
same "of the same bits" run
check "each with its kernels in time" in_time
check "each of its layer" each_step 2 0 3 4 "the gradients of attention's keys"

# depths FILE: ranges are closed in their order; of each that is open how deep it is, and its name
depths() {
    awk '/^push / { print depth++, substr($0, 6); next } /^pop$/ { if (--depth < 0) exit 1; next } { exit 1 } END { if (depth != 0) exit 1 }' "$1"
}
ranges() { # COUNT DEPTH NAME
    [ "$(grep -c "^$2 $3\$" ranges.log)" -eq "$1" ] || { sort ranges.log | uniq -c >>train.log; return 1; }
}
if [ $emulated = yes ]; then
    CUDA_ON_CPU_NVTX=none.txt train 1 run_dir=off device=cuda steps=1 || cat train.log
    check "no profiler is shown anything unless it is asked for" [ ! -s none.txt ]
    CAIRN_PROFILE=1 CUDA_ON_CPU_NVTX=ranges.txt train 1 run_dir=profile device=cuda validation.every=4 validation.microbatches=3
    check "ranges for a profiler are inside one another" eval 'depths ranges.txt >ranges.log'
    same "and change no bit" profile
    check "steps are marked" ranges 4 0 'step [0-3]'
    check "in them microbatches forward" ranges 16 1 'forward [0-3]'
    check "and backward" ranges 16 1 'backward [0-3]'
    # 2 layers, 16 microbatches forward and backward, 3 of validation
    check "in these their operations" ranges 70 2 'attention'
    check "the gradient with its norm" ranges 4 2 norm
    check "losses, update, parameters" ranges 12 1 '\(losses\|update\|parameters\)'
    check "validation" ranges 3 1 evaluate
    check "and checkpoints" ranges 2 0 'save [24]'
    CAIRN_PROFILE=0 CUDA_ON_CPU_NVTX=none.txt train 1 run_dir=zero device=cuda steps=1
    check "CAIRN_PROFILE=0 asks for nothing" [ ! -s none.txt ]

    CUDA_ON_CPU_FAILS_AT=40 "$CAIRN" train tiny.yaml run_dir=failing device=cuda trace=true >train.log 2>&1
    status=$?
    check "a GPU that fails under a trace ends the run with one error" eval '[ $status -eq 1 ] && grep -q "error: step 0: .*GPU" train.log'

    # Exchanges of gradients go on beside kernels, in a lane of their own.
    CUDA_ON_CPU_DEVICES=2 traced 2 parallel.links=nccl
    if [ $? -eq 0 ]; then
        same "2 GPUs joined by NCCL with a trace" run
        check "their exchanges have a lane" linked_lanes
        check "in time" in_time
    else
        skip "a lane of exchanges between GPUs" "there is no NCCL: $(sed -n 's/.*error: //p' train.log | head -n 1)"
    fi
else
    skip "ranges for a profiler, a GPU that fails" "there is no emulation"
fi
finish
