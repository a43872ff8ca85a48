#!/bin/sh
# The trace of a training: each rank's lanes, and the exchange of gradients under the backward pass.
. "$CAIRN_SOURCE/tests/train/common.sh"
facts=$CAIRN_BUILD/tests/train/trace_facts

# traced RANKS KEY=VALUE...: a run in run/, its facts in facts.log
traced() {
    rm -rf run
    train "$@" run_dir=run trace=true && "$facts" run/trace.json >facts.log 2>>train.log
    status=$?
    cat facts.log >>train.log
    return $status
}

has() { grep -q "^names: $1 $2\$" facts.log; } # RANK SPAN
each() { # RANKS SPAN...
    last=$(($1 - 1))
    shift
    for rank in $(seq 0 $last); do has "$rank" "$*" || return 1; done
}
lanes() {
    [ "$(grep -c '^rank [0-3]: compute [1-9][0-9]*, communication [1-9][0-9]*, reading [1-9][0-9]*, checkpoint [1-9]' facts.log)" -eq 4 ] &&
        [ "$(ls run/trace)" = "$(printf 'rank-%04d.json\n' 0 1 2 3)" ]
}
data_names() {
    for span in 'compute forward' 'compute backward' 'compute update' 'compute evaluate' 'communication sum of a bucket' \
        'communication norm' 'communication losses' 'reading read' 'checkpoint restore' 'checkpoint save'; do
        each 4 $span || { echo "no $span" >>train.log; return 1; }
    done
}

stage_names() {
    has 0 "communication send forward" && has 0 "communication receive backward" && has 2 "communication receive forward" &&
        has 2 "communication send backward" && each 4 compute weights
}

check() { # NAME COMMAND...
    name=$1
    shift
    if "$@"; then pass "$name"; else fail "$name" train.log; fi
}

train 4 run_dir=plain && expected=$(hash_of plain) && [ ! -e plain/trace.json ] && [ ! -e plain/trace ]
check "a run that is not asked for a trace writes none" [ $? -eq 0 ]

check "four ranks train with a trace, which is JSON" traced 4 validation.microbatches=4
same "the trace changes no bit" run
check "each rank has its lanes" lanes
check "each rank has spans of its work" data_names
check "clocks of one machine agree" awk '/^clocks apart/ { exit !($3 < 0.001) }' facts.log
check "in every step, on every rank, the first bucket's exchange begins under the backward pass" grep -q '^steps 32, .* 32$' facts.log

short='steps=2 validation.every=0 checkpoint.every=0'
check "a trace without overlap" traced 4 $short parallel.overlap=false
check "no exchange begins under the backward pass then" grep -q '^steps 8, .* 0$' facts.log

check "a trace of compressed gradients" traced 2 $short parallel.compress=powersgd
check "their exchange begins under the backward pass too" grep -q '^steps 4, .* 4$' facts.log

check "a trace of two stages of two tensor ranks" traced 4 $short parallel.pipeline=2 parallel.tensor=2 parallel.schedule=zero-bubble
check "messages of stages are in it" stage_names
check "collectives of tensor ranks are in it" each 4 communication all-gather

check "a trace of sequences shared by two ranks, with ZeRO 1" traced 2 $short parallel.context=2 parallel.zero=1
check "shifts along the ring are in it" each 2 communication "shift along a ring"
check "the gathering of parameters is in it" each 2 communication "gather of a bucket"

train 2 run_dir=run trace=true steps=4 && "$facts" run/trace.json >facts.log 2>>train.log
check "a run that goes on has a trace of its newest start" grep -q '^steps 4, ' facts.log
finish
