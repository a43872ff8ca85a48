# For command-line tests, sourced by tests/cmd/*.t: TAP in shell. CAIRN is the built command.
cases=0
# "device: auto" means the processor, whatever is there; a test of GPUs sets it to $cuda_plugin.
cuda_plugin=${CAIRN_PLUGIN_DIR:-${CAIRN_CUDA_ON_CPU:-}}
export CAIRN_PLUGIN_DIR=/nonexistent
scratch=$(mktemp -d "${TMPDIR:-/tmp}/cairn-cmd-XXXXXX") || exit 99
trap 'rm -rf "$scratch"' EXIT
trap 'exit 143' INT TERM HUP

# pass NAME, skip NAME REASON, fail NAME [FILE with what is to be seen]
pass() { cases=$((cases + 1)); echo "ok $cases - $1"; }
skip() { cases=$((cases + 1)); echo "ok $cases - $1 # SKIP $2"; }
fail() {
    cases=$((cases + 1))
    echo "not ok $cases - $1"
    [ -z "${2:-}" ] || sed 's/^/#   /' "$2"
}

# check NAME COMMAND...: passes if COMMAND succeeds; its output is shown if not, and that of explain, which a test may define anew.
explain() { :; }
check() {
    check_name=$1
    shift
    if "$@" >"$scratch/check" 2>&1; then
        pass "$check_name"
    else
        explain >>"$scratch/check" 2>&1
        fail "$check_name" "$scratch/check"
    fi
}

# expect NAME STATUS COMMAND...: runs COMMAND and compares its exit status, its standard output with the file
# $scratch/out and its standard error with $scratch/err. A file that is not there is not compared. Both are removed.
expect() {
    expect_name=$1 wanted=$2
    shift 2
    "$@" >"$scratch/got.out" 2>"$scratch/got.err"
    got=$?
    : >"$scratch/difference"
    [ $got -eq "$wanted" ] || echo "exit status $got, expected $wanted" >>"$scratch/difference"
    for stream in out err; do
        [ -e "$scratch/$stream" ] || continue
        diff -u "$scratch/$stream" "$scratch/got.$stream" >>"$scratch/difference"
    done
    if [ -s "$scratch/difference" ]; then
        [ $got -eq "$wanted" ] || cat "$scratch/got.err" >>"$scratch/difference"
        fail "$expect_name" "$scratch/difference"
    else
        pass "$expect_name"
    fi
    rm -f "$scratch/out" "$scratch/err"
}

finish() { echo "1..$cases"; }
