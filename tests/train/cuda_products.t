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
