#!/bin/sh
# Which algorithms a run's products take on GPUs, and that they are kept. The emulation's (tests/cuda_on_cpu) have other last bits each.
. "$CAIRN_SOURCE/tests/train/cuda.sh"

train 1 run_dir=first device=cuda algorithms=first || { fail "a GPU trains" train.log; finish; exit; }
grep -q 'CUDA on the processor' train.log || { skip "algorithms that are chosen and kept" "a GPU's may have the same bits"; finish; exit; }
first=$(hash_of first)
[ ! -e cache ] && pass "the library's first choices are not kept for others" || fail "the library's first choices are not kept for others" train.log
train 1 run_dir=timed device=cuda
timed=$(hash_of timed)
[ -n "$timed" ] && [ "$timed" != "$first" ] && pass "trying finds other algorithms than the library's first" ||
    fail "trying finds other algorithms than the library's first" train.log
check "the run's folder keeps them" grep -q '"algorithm"' timed/products.json
check "and the cache" cmp timed/products.json cache/cairn/products-*.json
kept=$(echo cache/cairn/products-*.json)

# What is kept is told from what is found by making it the first ones.
expected=$first
train 1 run_dir=again device=cuda algorithms=first
same "with first, the cache counts for nothing" again
rm -rf cache
train 1 run_dir=goes_on device=cuda algorithms=first steps=2
train 1 run_dir=goes_on device=cuda
same "a restart takes the algorithms of its folder" goes_on
mkdir -p cache/cairn
sed 's/"timed": false/"timed": true/' first/products.json >"$kept"
train 1 run_dir=cached device=cuda
same "a fresh run takes those of the cache" cached
train 2 run_dir=two device=cuda parallel.tensor=1
same "on 2 ranks too" two
check "and keeps them" cmp "$kept" cached/products.json
rm -rf cache
timeout -k 5 100 "$MPIEXEC" -n 1 "$CAIRN" train tiny.yaml run_dir=unlike device=cuda algorithms=first : \
    -n 1 "$CAIRN" train tiny.yaml run_dir=unlike device=cuda algorithms=timed >train.log 2>&1
same "ranks that found others take those of the first rank" unlike

# The gradients of biases: beside those of weights where the library has an algorithm, and not slower. Whether so is kept like an algorithm.
zeros=$(printf '%0128d' 0)

# joint RUN, apart RUN: how many kinds of products have them beside, and by a kernel of its own
joint() { grep -A1 'dbias"' "$1/products.json" | grep '"algorithm"' | grep -vc "$zeros"; }
apart() { grep -A1 'dbias"' "$1/products.json" | grep -c "\"algorithm\": \"$zeros"; }
[ "$(joint first)" -ge 3 ] && [ "$(apart first)" -eq 0 ] && pass "biases' gradients are found beside weights'" || fail "biases' gradients are found beside weights'" first/products.json
expected=$first
train 2 run_dir=bubble device=cuda algorithms=first parallel.pipeline=2 parallel.schedule=zero-bubble
same "so they are in split backward passes" bubble
CUDA_ON_CPU_DEVICES=2 train 2 run_dir=zero device=cuda algorithms=first parallel.zero=3 parallel.links=nccl
same "and with zero 3" zero
CUDA_ON_CPU_NO_BGRAD=1 train 1 run_dir=refused device=cuda algorithms=first
expected=$(hash_of refused)
[ -n "$expected" ] && [ "$expected" != "$first" ] && [ "$(joint refused)" -eq 0 ] && [ "$(apart refused)" -ge 3 ] &&
    pass "where the library refuses, by a kernel" || fail "where the library refuses, by a kernel" train.log
CUDA_ON_CPU_NO_BGRAD=1 train 1 run_dir=refused_once device=cuda algorithms=first steps=2
train 1 run_dir=refused_once device=cuda algorithms=first
same "a restart that could have them beside goes on by the kernel" refused_once
rm -rf cache
CUDA_ON_CPU_SLOW_BGRAD=20 train 1 run_dir=slow device=cuda steps=2
[ "$(joint slow)" -eq 0 ] && [ "$(apart slow)" -ge 3 ] && pass "what is slower is not taken" || fail "what is slower is not taken" slow/products.json
train 1 run_dir=slow_cached device=cuda
expected=$(hash_of slow_cached)
[ "$(joint slow_cached)" -eq 0 ] && pass "nor by another run, which has it from the cache" || fail "nor by another run, which has it from the cache" slow_cached/products.json
rm -rf cache
train 1 run_dir=slow device=cuda
same "nor by a restart" slow

# From here on they are found by time, which may end otherwise each time.
rm -rf cache
cp -r first damaged
rm -rf damaged/checkpoints
echo '{' >damaged/products.json
train 1 run_dir=damaged device=cuda
grep -q 'warning: the algorithms of products are chosen anew.*damaged/products.json cannot be read' train.log && pass "a damaged file is told" || fail "a damaged file is told" train.log
expected=$(hash_of damaged)
rm -rf damaged/checkpoints cache
train 1 run_dir=damaged device=cuda
same "and made anew" damaged
rm -rf damaged/checkpoints cache
sed -i 's/"device": ".*"/"device": "another"/' damaged/products.json
train 1 run_dir=damaged device=cuda
grep -q 'warning: .*is of another device: another' train.log && pass "so is one of another device" || fail "so is one of another device" train.log
XDG_CACHE_HOME=/proc/none train 1 run_dir=uncached device=cuda
[ -n "$(hash_of uncached)" ] && [ -s uncached/products.json ] && pass "a cache that cannot be written stops no run" || fail "a cache that cannot be written stops no run" train.log
finish
