#!/bin/sh
# Installs what is missing, builds out of tree with warnings as errors, runs every test, cleans up.
#   sh tests/check.sh [--asan | --tsan | --distcheck] [--clang]
#     --asan       build with AddressSanitizer and UndefinedBehaviorSanitizer; run the unit, fuzz and rank tests
#     --tsan       build with ThreadSanitizer; run the tests of what has threads of its own (tests/unit/threads_*)
#     --distcheck  make a release, build it, test it and install it, as 'make distcheck' does
#     --clang      build with clang instead of the default compiler
#   CAIRN_BUILD_DIR=DIR  build in DIR and keep it; without it a temporary folder is used and removed.
# The last line of the output is "N passed, N failed, N skipped"; the exit status is 0 when none failed.
set -u
source_dir=$(cd "$(dirname "$0")/.." && pwd)
begin=$(date +%s)
mode=plain
compiler=
for argument in "$@"; do
    case $argument in
    --asan | --tsan | --distcheck) mode=${argument#--} ;;
    --clang) compiler=clang ;;
    --help | -h) sed -n 's/^# \{0,1\}//; 2,9p' "$0"; exit 0 ;;
    *) echo "check.sh: unknown option $argument; --help lists them" >&2; exit 2 ;;
    esac
done

session= # of the step that runs: each has a session of its own, so that all of it can be found and ended
build=

say() { printf '%4s s  %s\n' $(($(date +%s) - begin)) "$1"; }

# Prints the processes of session $1 that live.
session_members() {
    for stat in /proc/[0-9]*/stat; do
        # After the name in parentheses: state, parent, process group, session.
        sed 's/^\([0-9]*\) .*) \(.\) [0-9]* [0-9]* \([0-9]*\) .*/\1 \2 \3/' "$stat" 2>/dev/null
    done | while read -r pid state sid; do
        if [ "$sid" = "$1" ] && [ "$state" != Z ]; then echo "$pid"; fi
    done
}

# Ends all processes of the running step: first politely, since tests take down what they put up, after 20 s by force.
end_step() {
    [ -n "$session" ] || return 0
    members=$(session_members "$session")
    [ -z "$members" ] || kill -TERM $members 2>/dev/null
    tries=0
    while [ -n "$(session_members "$session")" ] && [ $tries -lt 80 ]; do
        sleep 0.25
        tries=$((tries + 1))
    done
    members=$(session_members "$session")
    [ -z "$members" ] || kill -KILL $members 2>/dev/null
    session=
}

clean_up() {
    end_step
    if [ -n "$build" ] && [ -z "${CAIRN_BUILD_DIR:-}" ]; then
        chmod -R u+w "$build" # a release's tree is read-only while it is checked
        rm -rf "$build"
    fi
}
trap 'trap - EXIT; clean_up; exit 130' INT
trap 'trap - EXIT; clean_up; exit 143' TERM HUP
trap clean_up EXIT

# step TITLE LOG COMMAND...: runs COMMAND with its output in LOG.
step() {
    title=$1 log=$2
    shift 2
    say "$title"
    # A shell without job control starts background commands with these signals ignored; tests send them.
    setsid env --default-signal=INT,QUIT "$@" >"$log" 2>&1 </dev/null &
    session=$!
    wait "$session"
    status=$?
    end_step
    return $status
}

# A step without which there is nothing to test.
need() {
    step "$@" && return
    echo "--- $title failed; the end of its output:"
    tail -n 60 "$log"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
}

# Prints how many results of kind $1 (an extended regular expression) the tests had.
results() { find "$build" -name '*.trs' -exec cat {} + | grep -cE "^:test-result: ($1)"; }

show_failures() {
    find "$build" -name '*.trs' | sort | while read -r trs; do
        grep -qE '^:test-result: (FAIL|ERROR|XPASS)' "$trs" || continue
        echo "--- ${trs#"$build"/}:"
        grep -E '^:test-result: (FAIL|ERROR|XPASS)' "$trs" | sed 's/^:test-result: //'
        echo "--- the end of its output:"
        tail -n 40 "${trs%.trs}.log"
    done
}

# The tests that mode $mode runs, as an argument for make; empty: all.
chosen_tests() {
    list=$(cd "$build" && make -s print-tests 2>/dev/null)
    case $mode in
    asan) pattern='^tests/(unit|fuzz|ranks)/' ;;
    tsan) pattern='^tests/unit/threads_' ;;
    *) return ;;
    esac
    printf 'TESTS=%s' "$(printf '%s\n' $list | grep -E "$pattern" | tr '\n' ' ')"
}

cd "$source_dir" || exit 1
if [ -n "${CAIRN_BUILD_DIR:-}" ]; then
    mkdir -p "$CAIRN_BUILD_DIR" && build=$(cd "$CAIRN_BUILD_DIR" && pwd) || exit 1
else
    build=$(mktemp -d "${TMPDIR:-/tmp}/cairn-check-XXXXXX") || exit 1
fi
# A test of several ranks shares few cores with its neighbours here; only a hang shall meet its limit.
export CAIRN_TEST_SECONDS="${CAIRN_TEST_SECONDS:-400}"
logs=$build/check-logs
mkdir -p "$logs" || exit 1
find "$build" -name '*.trs' -exec rm -f {} +

need 'packages' "$logs/packages" sh tests/install-packages.sh --for check
[ -x configure ] || need 'autogen' "$logs/autogen" ./autogen.sh
cd "$build" || exit 1
set -- --enable-werror
[ -z "$compiler" ] || set -- "$@" "CC=$compiler"
case $mode in
asan)
    set -- "$@" --enable-sanitize=address,undefined
    # Leaks are those of our code: what the MPI stack keeps until the end is named in the list.
    export ASAN_OPTIONS="${ASAN_OPTIONS:-abort_on_error=0}" LSAN_OPTIONS="suppressions=$source_dir/tests/leaks.supp:print_suppressions=0"
    export UBSAN_OPTIONS=print_stacktrace=1
    # hwloc's plugins, which MPICH has loaded, keep memory beyond their unloading; then no list can name them.
    export HWLOC_PLUGINS_PATH=/nonexistent
    ;;
tsan)
    set -- "$@" --enable-sanitize=thread
    export TSAN_OPTIONS="halt_on_error=1"
    # UCX hooks madvise, also where a thread ends, after ThreadSanitizer is done with it: a crash in its interceptor.
    export UCX_MEM_MMAP_HOOK_MODE=none
    ;;
esac
need 'configure' "$logs/configure" "$source_dir/configure" "$@"
need 'build' "$logs/build" make -j"$(nproc)"

if [ $mode = distcheck ]; then
    need 'distcheck' "$logs/distcheck" make distcheck "DISTCHECK_CONFIGURE_FLAGS=$*"
    say done
    echo "1 passed, 0 failed, 0 skipped"
    exit 0
fi

need 'build of the tests' "$logs/build-tests" make -j"$(nproc)" check TESTS=
find "$build" -name '*.trs' -exec rm -f {} +
tests=$(chosen_tests)
# Many tests wait more than they compute: for a cluster, for a time to pass.
step 'tests' "$logs/tests" make -j"$(($(nproc) + 1))" check ${tests:+"$tests"}
made=$?
passed=$(results 'PASS|XFAIL') failed=$(results 'FAIL|ERROR|XPASS') skipped=$(results 'SKIP')
if [ $made -ne 0 ] || [ "$failed" -ne 0 ]; then
    show_failures
    # A harness that broke before it could write a result is a failure too.
    if [ "$failed" -eq 0 ]; then
        echo '--- make check failed; the end of its output:'
        tail -n 60 "$logs/tests"
        failed=1
    fi
elif [ "$passed" -eq 0 ]; then
    echo '--- no test ran'
    failed=1
fi
say done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
