# For tests that train, sourced by tests/train/*.t: a dataset of a few hundred KB, a tiny config, and ways to run it.
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
cd "$scratch" || exit 99
export UCX_TLS=self,sm # ranks of one machine need no network, and no interface that comes and goes
for file in "$CAIRN_SOURCE"/doc/*.md "$CAIRN_SOURCE"/src/*/*.h "$CAIRN_SOURCE"/src/*/*.c; do cat "$file"; done >text.txt
"$CAIRN" data import text text.txt -o text.h5 --validation 0.1 >import.log 2>&1 || { cat import.log; echo "Bail out! no dataset"; exit 99; }
cat >tiny.yaml <<'EOF'
steps: 8
data: {path: text.h5}
batch: {microbatches: 8, samples: 2}
model: {layers: 2, width: 24, heads: 2, context: 20, dropout: 0.1}
optimizer: {learning_rate: 3.0e-3, min_learning_rate: 3.0e-4, warmup_steps: 3, decay_steps: 8}
threads: 1
validation: {every: 4, microbatches: 3}
log: {every: 4}
checkpoint: {every: 3}
EOF

# train RANKS KEY=VALUE...: exit status of the training; its output in train.log
train() {
    ranks=$1
    shift
    timeout -k 5 "${limit:-100}" "$MPIEXEC" -n "$ranks" "$CAIRN" train tiny.yaml "$@" >train.log 2>&1
}

# hash_of RUN: of the newest checkpoint's weights
hash_of() { "$CAIRN" ckpt info "$1" | sed -n 's/^weights \([0-9a-f]\{16\}\)$/\1/p'; }

# same NAME RUN: passes if RUN's weights have the hash $expected
same() {
    got=$(hash_of "$2")
    echo "weights $got, expected $expected" >>train.log
    if [ -n "$expected" ] && [ "$got" = "$expected" ]; then pass "$1"; else fail "$1" train.log; fi
}
