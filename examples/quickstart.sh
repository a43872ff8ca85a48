#!/bin/sh
# Cairn in a few minutes, on one machine and without a GPU: a private Slurm cluster of four nodes, a GPT that learns English from
# a dictionary, a power cut in the middle of it, and the proof that the result is the same to the bit.
set -eu

usage() {
    cat <<'EOF'
usage: sh examples/quickstart.sh [--keep] [--dir DIR] [--steps N]

Installs what is missing from Debian's packages, builds Cairn, imports a text, starts a private Slurm cluster of four nodes on this
machine, submits a training job with sbatch, powers a node off in the middle, waits until the job has come back and ended, trains
the same config undisturbed, and compares the weights.

  --keep       leave the cluster up afterwards, to play with
  --dir DIR    where builds, data and runs are kept (default: cairn-quickstart in your home folder)
  --steps N    optimizer steps of the training (default 240)
  -h, --help   show this text

Run again, it starts from what is there: packages, build and dataset are not made twice.
EOF
}

keep=no steps=240 work=${HOME:-/tmp}/cairn-quickstart
while [ $# -gt 0 ]; do
    case $1 in
        --keep) keep=yes ;;
        --dir) [ $# -ge 2 ] || { usage >&2; exit 2; }; work=$2; shift ;;
        --steps) [ $# -ge 2 ] || { usage >&2; exit 2; }; steps=$2; shift ;;
        -h | --help) usage; exit 0 ;;
        *) echo "quickstart: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
case $steps in '' | *[!0-9]*) echo "quickstart: --steps takes a whole number, not '$steps'" >&2; exit 2 ;; esac
[ "$steps" -ge 60 ] || { echo "quickstart: --steps must be 60 or more, to have a middle to fail in" >&2; exit 2; }

source=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$work"
work=$(cd "$work" && pwd)
build=$work/build data=$work/dictionary.h5 runs=$work/runs
cluster() { "$source/tests/slurm/cluster" "$@"; }
CAIRN_CLUSTER=${TMPDIR:-/tmp}/cairn-quickstart-$(id -u)
export CAIRN_CLUSTER
started=$(date +%s)

say() { printf '\n[%3ds] %s\n' $(($(date +%s) - started)) "$*"; }
die() { echo "quickstart: $*" >&2; exit 1; }

follower=
finish() {
    code=$?
    trap - EXIT INT TERM HUP
    [ -z "$follower" ] || kill "$follower" 2>/dev/null || :
    if [ "$keep" = yes ] && [ "$code" = 0 ]; then
        printf '\nThe cluster is left up. Use it:  export CAIRN_CLUSTER=%s; eval "$(%s env)"; sinfo\nStop it: %s down\n' \
            "$CAIRN_CLUSTER" "$source/tests/slurm/cluster" "$source/tests/slurm/cluster"
    elif [ -d "$CAIRN_CLUSTER" ]; then
        cluster down || code=1
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---- what it needs ----
say "packages"
sh "$source/tests/install-packages.sh" --for quickstart

say "build, in $build"
if [ -f "$build/config.status" ] && ! grep -qxF "srcdir='$source'" "$build/config.status"; then
    say "what is there was built from other sources, and is built anew"
    rm -rf "$build"
fi
mkdir -p "$build"
(
    cd "$build"
    [ -x "$source/configure" ] || "$source/autogen.sh" >autogen.log 2>&1 || { tail -20 autogen.log; exit 1; }
    [ -f config.status ] || "$source/configure" --with-cuda=no >configure.log 2>&1 || { tail -20 configure.log; exit 1; }
    make -j"$(nproc)" all >make.log 2>&1 || { tail -30 make.log; exit 1; }
) || die "the build failed; its logs are in $build"
PATH=$build:$PATH
export PATH

if [ ! -f "$data" ]; then
    say "import of the dictionary (Debian's package dict-gcide) into $data"
    gzip -dc </usr/share/dictd/gcide.dict.dz >"$work/dictionary.txt"
    cairn data import text "$work/dictionary.txt" -o "$data" --validation 0.01
fi
cairn data info "$data"

# ---- the cluster and the job ----
say "a private Slurm cluster of four nodes"
# One that --keep left up serves again if all of it is there and idle.
if [ -e "$CAIRN_CLUSTER" ] && [ "$(cluster run sinfo --noheader --Node --partition=main --format=%T 2>/dev/null | grep -c '^idle$')" != 4 ]; then
    cluster down
fi
[ -e "$CAIRN_CLUSTER" ] || cluster up --nodes 4 --cpus-per-node 4
cluster run sinfo

mkdir -p "$runs"
cat >"$runs/gpt.yaml" <<EOF
# A small GPT on bytes; the number of ranks is not part of it.
steps: $steps
data: {path: $data}
batch: {microbatches: 8, samples: 4}
model: {layers: 4, width: 128, heads: 4, context: 128}
optimizer: {learning_rate: 3.0e-3, min_learning_rate: 3.0e-4, warmup_steps: 20}
threads: 1
validation: {every: $((steps / 2)), microbatches: 8}
log: {every: $((steps / 24 > 0 ? steps / 24 : 1))}
checkpoint: {every: $((steps / 12)), keep: 3}
EOF
cat >"$runs/gpt.sbatch" <<'EOF'
#!/bin/sh
#SBATCH --job-name=gpt
#SBATCH --nodes=2-4
#SBATCH --ntasks=4
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
#SBATCH --open-mode=append
#SBATCH --time=20
exec cairn run gpt.yaml run_dir="$RUN"
EOF

# submit NAME: sets $job, $run, $output
submit() {
    run=$runs/$1 output=$runs/$1.out
    rm -rf "$run" "$output"
    job=$(cd "$runs" && RUN=$run cluster run sbatch --parsable --output="$output" --export=ALL gpt.sbatch) || die "sbatch failed"
    : >>"$output"
}

# The newest step that metrics.jsonl tells of.
step_now() {
    sed -n 's/.*"kind": *"step", *"step": *\([0-9]*\).*/\1/p' "$run/metrics.jsonl" 2>/dev/null | tail -n 1
}

job_state() {
    cluster run squeue --noheader --jobs="$job" --format=%T 2>/dev/null || :
}

# wait_until_step N: until the job has done N steps; fails when it ends before, or nothing new comes for five minutes.
wait_until_step() {
    last= quiet=0
    while now=$(step_now); [ "${now:-0}" -lt "$1" ]; do
        [ -n "$(job_state)" ] || die "the job ended early; its output is in $output"
        if [ "${now:-}" = "$last" ]; then quiet=$((quiet + 1)); else quiet=0 last=$now; fi
        [ "$quiet" -lt 600 ] || die "no new step for five minutes; the job's output is in $output"
        sleep 0.5
    done
}

wait_for_end() {
    wait_until_step "$steps"
    waited=0
    while [ -n "$(job_state)" ]; do
        case $(job_state) in COMPLETED | FAILED | CANCELLED | TIMEOUT) break ;; esac
        waited=$((waited + 1))
        [ "$waited" -lt 240 ] || die "the job trained to its end, but does not end; its output is in $output"
        sleep 0.5
    done
}

follow() {
    tail -n +1 -f "$output" &
    follower=$!
}
unfollow() {
    kill "$follower" 2>/dev/null || :
    wait "$follower" 2>/dev/null || :
    follower=
}

say "first run: sbatch, and a power cut in the middle"
submit disturbed
echo "job $job; its output, from $output:"
follow
wait_until_step $((steps * 45 / 100))
cut_at=$(date +%s.%N)
say ">>> power off: node3 <<<"
cluster off node3
wait_for_end
unfollow
disturbed=$run

say "node3 is switched on again; second run: the same config, undisturbed"
cluster on node3
submit undisturbed
follow
wait_for_end
unfollow
undisturbed=$run

# ---- the one screen ----
hash_of() {
    cairn ckpt info "$1" | sed -n 's/^weights \([0-9a-f]\{16\}\)$/\1/p'
}
metric() { # metric FILE first|last KEY: a key of the first or last step's line
    if [ "$2" = first ]; then pick='1p'; else pick='$p'; fi
    grep '"kind": *"step"' "$1/metrics.jsonl" | sed -n "$pick" | sed -n "s/.*\"$3\": *\([-0-9.e+]*\).*/\1/p"
}
# The first record whose step is not beyond the one before it: the run came back there.
came_back=$(grep '"kind": *"step"' "$disturbed/metrics.jsonl" | sed 's/.*"time": *\([0-9.]*\).*"step": *\([0-9]*\),.*/\1 \2/' |
    awk -v cut="$cut_at" '$2 <= last && !found { found = 1; printf "%d %.1f", last - $2 + 1, $1 - cut } { last = $2 }')
[ -n "$came_back" ] || die "the power cut hit nothing: no step was done again; the job's output is in $runs/disturbed.out"
hash_a=$(hash_of "$disturbed") hash_b=$(hash_of "$undisturbed")
sample=$(cairn generate "$disturbed" --prompt "Light" --tokens 240 --seed 3 2>/dev/null || echo "(none)")
report=$runs/report.txt
{
    echo "================================ Cairn ================================"
    echo "loss                 $(metric "$disturbed" first loss) at the start, $(metric "$disturbed" last loss) at the end ($steps steps)"
    echo "steps lost           ${came_back% *} (the work since the last checkpoint, done again)"
    echo "power-off to step    ${came_back#* } s"
    echo "weights, disturbed   $hash_a"
    echo "weights, undisturbed $hash_b"
    if [ -n "$hash_a" ] && [ "$hash_a" = "$hash_b" ]; then
        echo "                     identical to the bit"
    else
        echo "                     THEY DIFFER"
    fi
    echo "what it writes now:"
    printf '%s\n' "$sample" | sed 's/^/  | /'
    echo "this report          $report"
    echo "the runs             $disturbed  $undisturbed"
    echo "time                 $(($(date +%s) - started)) s in all"
    echo "======================================================================="
} >"$report"
echo
cat "$report"
[ -n "$hash_a" ] && [ "$hash_a" = "$hash_b" ] || die "the weights differ"
