#!/bin/sh
# Parameter servers: at staleness 0 the bits of a bulk run, whoever dies; with staleness, training that goes on without waiting.
. "$CAIRN_SOURCE/tests/train/common.sh"
P=parallel

train 1 run_dir=bulk
expected=$(hash_of bulk)
[ -n "$expected" ] && pass "a bulk run to compare with" || fail "a bulk run to compare with" train.log
for servers in 1 2; do
    for workers in 1 2 3; do
        train $((servers + workers)) "run_dir=s$servers-w$workers" $P.sync=server $P.servers=$servers
        same "$servers servers and $workers workers, staleness 0: the bits of bulk" "s$servers-w$workers"
    done
done
check "the whole state is equal, moments included" "$CAIRN" ckpt diff bulk/checkpoints/step-00000008 s2-w3/checkpoints/step-00000008

# losses RUN: step and loss, and the validations
losses() { sed -n 's/.*"step": *\([0-9]*\), *"\(loss\|validation_loss\)": *\([^,]*\),.*/\1 \2 \3/p' "$1/metrics.jsonl"; }
losses bulk >bulk.losses
losses s2-w3 >server.losses
[ -s bulk.losses ] && cmp -s bulk.losses server.losses && pass "losses of every step and validation are equal too" || fail "losses of every step and validation are equal too" server.losses

# A checkpoint of one goes on under the other.
train 4 run_dir=chain steps=2 $P.sync=server $P.servers=2
train 2 run_dir=chain steps=4
train 3 run_dir=chain steps=6 $P.sync=server
grep -q "goes on from the checkpoint of step 4" train.log && pass "servers go on from a bulk run's checkpoint" || fail "servers go on from a bulk run's checkpoint" train.log
train 1 run_dir=chain
same "bulk, servers, bulk and servers in turn end with the same weights" chain
cp chain/metrics.jsonl chain.metrics
train 4 run_dir=chain $P.sync=server $P.servers=2
status=$?
[ $status -eq 0 ] && grep -q "nothing to do: the checkpoint is of step 8 of 8" train.log && cmp -s chain.metrics chain/metrics.jsonl &&
    pass "a run that is done is not validated again" || { echo "exit status $status" >>train.log; fail "a run that is done is not validated again" train.log; }

for kind in precision=bfloat16 model.tied=false model.experts=4 batch.microbatches=1; do
    train 1 run_dir=b-$kind $kind
    bits=$(hash_of b-$kind)
    workers=2
    [ $kind = batch.microbatches=1 ] && workers=1
    train $((workers + 2)) run_dir=s-$kind $kind $P.sync=server $P.servers=2
    [ -n "$bits" ] && [ "$(hash_of s-$kind)" = "$bits" ] && pass "$kind: the bits of bulk" || fail "$kind: the bits of bulk" train.log
done

# refused NAME WORDS RANKS KEYS...: exit code 2 and one error with these words
refused() {
    name=$1 words=$2
    shift 2
    train "$@"
    status=$?
    grep -q "$words" train.log && [ $status -eq 2 ] && [ "$(grep -c 'error:' train.log)" -eq 1 ] && pass "refused: $name" ||
        { echo "exit status $status" >>train.log; fail "refused: $name" train.log; }
}
refused "no worker" "1 server and workers need at least 2 ranks, but there is 1" 1 run_dir=no $P.sync=server
refused "more workers than microbatches" "2 workers but batch.microbatches is 1" 3 run_dir=no $P.sync=server batch.microbatches=1
refused "ZeRO" "parallel.zero does not go with it" 3 run_dir=no $P.sync=server $P.zero=1
refused "tensor" "parallel.tensor does not go with it" 3 run_dir=no $P.sync=server $P.tensor=2
refused "compression" "parallel.compress does not go with it" 3 run_dir=no $P.sync=server $P.compress=bf16

# Stale and asynchronous: the loss falls as in bulk, and nobody is further ahead than told.
long="steps=60 optimizer.decay_steps=60 validation.every=60 checkpoint.every=25"
train 1 run_dir=bulk60 $long
bulk_loss=$(losses bulk60 | sed -n 's/.*validation_loss //p')
for staleness in 1 3 inf; do
    train 4 run_dir=stale$staleness $long $P.sync=server $P.staleness=$staleness
    loss=$(losses stale$staleness | sed -n 's/.*validation_loss //p')
    echo "validation loss $loss, bulk $bulk_loss" >>train.log
    [ -n "$loss" ] && awk "BEGIN { exit !($loss < 1.08 * $bulk_loss) }" && pass "staleness $staleness trains" || fail "staleness $staleness trains" train.log
    lead=$(sed -n 's/.*"lead": *\([0-9]*\).*/\1/p' stale$staleness/metrics.jsonl | sort -n | tail -1)
    [ $staleness = inf ] && continue
    [ -n "$lead" ] && [ "$lead" -ge 1 ] && [ "$lead" -le $staleness ] && pass "staleness $staleness: workers ran ahead, none further" ||
        { echo "lead $lead" >>train.log; fail "staleness $staleness: workers ran ahead, none further" train.log; }
done
rm -r stale3/checkpoints/step-00000060
train 4 run_dir=stale3 $long $P.sync=server $P.staleness=3
"$CAIRN" ckpt info --json stale3 >>train.log
grep -q 'goes on from the checkpoint of step 50' train.log && grep -q '"extra_updates": 120,' train.log &&
    pass "updates are counted across a restart: three shares a step" || fail "updates are counted across a restart: three shares a step" train.log

# ---- workers of their own ----
expected=$(hash_of bulk60)

# serve RUN SERVERS WORKERS KEYS...: starts the servers; how workers reach them in $invitation. worker N KEYS...: starts one, its process in $worker
serve() {
    run=$1 count=$2 workers=$3
    shift 3
    CAIRN_SUPERVISED=1 CAIRN_WORKERS=$workers timeout -k 5 100 "$MPIEXEC" -n "$count" "$CAIRN" train tiny.yaml "run_dir=$run" $P.sync=server "$P.servers=$count" "$@" >"$run.out" 2>"$run.log" &
    launcher=$!
    invitation=
    tries=0
    until [ -n "$invitation" ] || [ $tries -ge 300 ]; do
        tries=$((tries + 1)); sleep 0.1
        invitation=$(sed -n 's/^.cairn servers 0 [^ ]* 0 serve //p' "$run.out")
    done
}
worker() {
    number=$1
    shift
    CAIRN_SERVERS=$invitation CAIRN_WORKER=$number "$CAIRN" train ./tiny.yaml "run_dir=$run" $P.sync=server "$P.servers=$count" "$@" >"$run.worker$number" 2>&1 &
    worker=$!
}
# await_step RUN STEP: until it is done
await_step() {
    tries=0
    until grep -q "\"step\": *$2," "$1/metrics.jsonl" 2>/dev/null || [ $tries -ge 600 ]; do tries=$((tries + 1)); sleep 0.1; done
    [ $tries -lt 600 ] || fail "step $2 of $1 is reached" "$1.log"
}
# await_log RUN COUNT WORDS: until the servers have told it so often
await_log() {
    tries=0
    until [ "$(grep -c "$3" "$1.log")" -ge "$2" ] || [ $tries -ge 600 ]; do tries=$((tries + 1)); sleep 0.1; done
    [ $tries -lt 600 ] && pass "$1: $3" || fail "$1: $3" "$1.log"
}
ends() { # NAME RUN: the servers end well, with the expected weights
    wait $launcher
    status=$?
    cat "$2.log" "$2".worker* >train.log
    echo "exit status $status" >>train.log
    [ $status -eq 0 ] && same "$1" "$2" || fail "$1" train.log
}

serve own 2 3 $long
for n in 0 1 2; do worker $n $long; done
ends "three workers of their own: the bits of bulk" own
wait $worker
[ $? -eq 0 ] && pass "workers end with exit code 0" || fail "workers end with exit code 0" own.worker2

serve killed 1 3 $long
for n in 0 1 2; do worker $n $long; done
await_step killed 5
kill -KILL $worker
ends "a worker is killed: the bits of bulk" killed
grep -q "warning: worker 2 on .* is lost" killed.log && pass "its loss is told" || fail "its loss is told" killed.log

serve asleep 1 2 $long supervise.hang_seconds=2
for n in 0 1; do worker $n $long; done
await_step asleep 5
kill -STOP $worker
ends "a worker is stopped: the others go on without it, the bits of bulk" asleep
grep -q "warning: worker 1 on .* is lost (its share of step .* is not done" asleep.log && pass "its hang is told" || fail "its hang is told" asleep.log
kill -CONT $worker
wait $worker
[ $? -eq 1 ] && pass "when it wakes up it ends" || fail "when it wakes up it ends" asleep.worker1

serve ended 1 2 $long
for n in 0 1; do worker $n $long; done
await_step ended 5
kill -TERM $worker
wait $worker
[ $? -eq 75 ] && grep -q 'cairn\[worker 1@.*leaves: SIGTERM' ended.worker1 && pass "SIGTERM ends one worker" || fail "SIGTERM ends one worker" ended.worker1
ends "and the others go on, the bits of bulk" ended

# The whole job is asked to end, the workers first: what has begun is done, a checkpoint is written, and the run goes on from it.
for staleness in 0 3 inf; do
    serve ended-all$staleness 2 3 $long $P.staleness=$staleness
    pids=
    for n in 0 1 2; do worker $n $long $P.staleness=$staleness; pids="$pids $worker"; done
    await_step ended-all$staleness 5
    kill -TERM $pids
    pkill -TERM -f "^$CAIRN train tiny.yaml run_dir=ended-all$staleness" # the servers
    wait $launcher
    status=$?
    for pid in $pids; do wait $pid; status="$status $?"; done
    cat "$run.log" "$run".worker* >train.log
    echo "exit statuses $status" >>train.log
    [ "$status" = "75 75 75 75" ] && grep -q "checkpoint of step" "$run.log" && pass "staleness $staleness: SIGTERM to all ends with a checkpoint" ||
        fail "staleness $staleness: SIGTERM to all ends with a checkpoint" train.log
    train 4 "run_dir=$run" $long $P.sync=server $P.staleness=$staleness
    status=$?
    [ $status -eq 0 ] && grep -q "goes on from the checkpoint" train.log && { [ $staleness != 0 ] || [ "$(hash_of "$run")" = "$expected" ]; } &&
        pass "staleness $staleness: and goes on from there to its end" || fail "staleness $staleness: and goes on from there to its end" train.log
done

held="$long supervise.hang_seconds=60"
serve again 2 2 $held
worker 0 $held
first=$worker
worker 1 $held
await_step again 5
kill -STOP $first # it holds the run, so that the other comes back before the end
kill -KILL $worker
await_log again 1 "worker 1 on .* is lost"
worker 1 $held
await_log again 2 "worker 1 on .* is here"
kill -CONT $first
ends "a worker is killed and started again: the bits of bulk" again

serve one 1 1 $long
worker 0 $long
await_step one 5
kill -KILL $worker
await_log one 1 "worker 0 on .* is lost"
worker 0 $long
ends "the only worker is killed and started again: the bits of bulk" one
await_log one 2 "worker 0 on .* is here"

serve server-lost 2 2 $long
for n in 0 1; do worker $n $long; done
await_step server-lost 30
pkill -KILL -f "^$CAIRN train tiny.yaml run_dir=server-lost" # the servers alone: workers read ./tiny.yaml
wait $launcher
wait $worker
status=$?
grep -q "error: .*the connection to .* is lost" server-lost.worker1 && [ $status -eq 1 ] && pass "servers are killed: workers end with one clear error" ||
    { echo "exit status $status" >>server-lost.worker1; fail "servers are killed: workers end with one clear error" server-lost.worker1; }
serve server-lost 2 2 $long
for n in 0 1; do worker $n $long; done
ends "started again from the checkpoint: the bits of bulk" server-lost
grep -q "goes on from the checkpoint of step \(25\|50\) " server-lost.log && pass "which is the newest" || fail "which is the newest" server-lost.log

serve server-stopped 1 2 $long
for n in 0 1; do worker $n $long; done
await_step server-stopped 5
pkill -USR1 -f "^$CAIRN train tiny.yaml run_dir=server-stopped"
wait $launcher
status=$?
wait $worker
[ $? -eq 75 ] && [ $status -eq 75 ] && pass "SIGUSR1 ends servers and workers with exit code 75" || { echo "exit status $status" >>server-stopped.log; fail "SIGUSR1 ends servers and workers with exit code 75" server-stopped.log; }
train 2 run_dir=server-stopped $long
same "and the rest of the run, in bulk, has the bits of bulk" server-stopped

serve wrong 1 1 $long
worker 0 $long seed=7
wait $worker
status=$?
grep -q "its config is not the servers': seed 7 (was 1)" wrong.worker0 && [ $status -eq 2 ] && pass "a worker with another config is refused" ||
    { echo "exit status $status" >>wrong.worker0; fail "a worker with another config is refused" wrong.worker0; }
token=$(printf %032d 0)
CAIRN_SERVERS=$token@${invitation#*@} "$CAIRN" train tiny.yaml run_dir=stranger $long $P.sync=server >wrong.stranger 2>&1
[ $? -eq 2 ] && grep -q "does not have this run's token" wrong.stranger && pass "without the token nobody comes in" || fail "without the token nobody comes in" wrong.stranger
worker 0 $long
ends "and the run knows nothing of them" wrong

# Strangers that say nothing: the oldest are closed, and the worker comes in.
serve flooded 1 1 $long
/usr/bin/python3 - "${invitation##*:}" <<'END' &
import signal, socket, sys
flood = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for i in range(150)]
open("flood.is", "w").close()
signal.pause()
END
flood=$!
tries=0
until [ -e flood.is ] || [ $tries -ge 300 ]; do tries=$((tries + 1)); sleep 0.1; done
worker 0 $long
ends "a flood of strangers does not keep a worker out: the bits of bulk" flooded
kill $flood
grep -q "too many have come" flooded.log && pass "they are told" || fail "they are told" flooded.log

# A head that greets and dies. deceiver SERVERS: it tells of so many; its address in $invitation
deceiver() {
    rm -f deceiver.port
    /usr/bin/python3 - "$1" <<'END' &
import socket, struct, sys, os
listener = socket.create_server(("127.0.0.1", 0))
with open("deceiver.new", "w") as f:
    f.write(str(listener.getsockname()[1]))
os.rename("deceiver.new", "deceiver.port")
peer = listener.accept()[0]
peer.recv(1 << 20)
welcome = struct.pack("=IIQ6q", 0x43574952, 3, 4, 0, 1, int(sys.argv[1]), 0, 0, 0) + b"x:1\n"
peer.sendall(welcome)
peer.close()
END
    deceiver=$!
    tries=0
    until [ -s deceiver.port ] || [ $tries -ge 300 ]; do tries=$((tries + 1)); sleep 0.1; done
    invitation=$token@127.0.0.1:$(cat deceiver.port)
}
run=deceived count=1
for told in 0 -1 60000 1099511627776; do
    deceiver $told
    worker 0 $long
    wait $worker
    status=$?
    wait $deceiver
    echo "exit status $status" >>deceived.worker0
    [ $status -eq 1 ] && grep -q "error:" deceived.worker0 && pass "a head that tells of $told servers and dies: a clear error" ||
        fail "a head that tells of $told servers and dies: a clear error" deceived.worker0
done
finish
