# For tests of trainings on GPUs: a small config, and comparisons of runs.
. "$CAIRN_SOURCE/tests/train/common.sh"
export CAIRN_PLUGIN_DIR="$cuda_plugin" XDG_CACHE_HOME="$scratch/cache"
if [ -z "$cuda_plugin" ]; then
    echo "1..0 # SKIP ${CAIRN_SKIP_CUDA:-there is no cuda backend}"
    exit 0
fi
sed -i -e 's/^steps: .*/steps: 4/' -e 's/microbatches: 8, samples: 2/microbatches: 4, samples: 1/' -e 's/width: 24/width: 32/' \
    -e 's/^validation: .*/validation: {every: 0}/' -e 's/^checkpoint: .*/checkpoint: {every: 2}/' tiny.yaml

# losses_of RUN: step and loss, a line each
losses_of() { sed -n 's/.*"step": *\([0-9]*\), *"loss": *\([^,]*\),.*/\1 \2/p' "$1/metrics.jsonl"; }

# near NAME RUN OTHER [PARTS]: passes if all losses agree to so many parts in a thousand, 1
near() {
    losses_of "$2" >a.losses
    losses_of "$3" >b.losses
    paste -d ' ' a.losses b.losses | awk -v parts="${4:-1}" 'NF != 4 || $1 != $3 || ($2 - $4)^2 > parts^2 * 1e-6 * $4^2 { bad = 1 } END { exit bad || NR < 4 }' &&
        pass "$1" || { paste a.losses b.losses >>train.log; fail "$1" train.log; }
}

# refused NAME CODE TEXT RANKS KEY=VALUE...: one error that has TEXT
refused() {
    name=$1 code=$2 text=$3
    shift 3
    train "$@"
    status=$?
    [ $status -eq "$code" ] && [ "$(grep -c 'error:' train.log)" -eq 1 ] && grep -q "$text" train.log && pass "$name" || fail "$name" train.log
}
