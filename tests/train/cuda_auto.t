#!/bin/sh
# parallel: auto on GPUs: a layout for the GPUs' memory and links, and the bits of one GPU.
. "$CAIRN_SOURCE/tests/train/cuda.sh"

# One GPU tells what the driver calls it.
train 1 run_dir=first device=cuda || { fail "a GPU trains" train.log; finish; exit; }
expected=$(hash_of first)
grep -q 'CUDA on the processor' train.log || { echo "1..0 # SKIP the table has an entry for the emulated GPU alone"; exit 0; }
cat >site.yaml <<'EOF'
gpus:
  CUDA on the processor:
    source: none, it is a test's
    memory_gib: 4
    memory_gb_s: 12
    float32_tflops: 0.2
    bfloat16_tflops: 0.2
    processors: 4
    nvlink_gb_s: 5
    pcie_gb_s: 3
    matmul_efficiency: 0.5
    flash1_efficiency: 0.3
    memory_efficiency: 0.8
    link_efficiency: 0.8
    kernel_us: 5
    network: Ethernet-25
EOF
# little.yaml: libraries take no more than 0.1 MB
cp site.yaml little.yaml
echo 'software:' >>little.yaml
sed -n '/^  cairn:/,/reserved_gib/p' "$CAIRN_SOURCE/src/plan/hardware.yaml" | sed 's/reserved_gib: .*/reserved_gib: 0.0001/' >>little.yaml
# told NAME PATTERN: passes if the last training says so
told() { grep -Eq "$2" train.log && pass "$1" || fail "$1" train.log; }
# chosen RUN KEY: in the merged config
chosen() { sed -n "/^parallel:/,/^[a-z]*:\$/s/^  $2: //p" "$1/config.yaml"; }
auto() {
    ranks=$1
    shift
    CAIRN_HARDWARE=$scratch/${table:-site}.yaml CUDA_ON_CPU_DEVICES=$ranks train "$ranks" parallel.auto=all device=cuda "$@"
}

for ranks in 1 2 4; do
    auto $ranks run_dir=auto$ranks
    same "auto on $ranks GPUs has the bits of one" auto$ranks
done
told 'what was chosen is told' 'parallel: auto chose data 4, .*: by plan [0-9]+ of [0-9]+ MB a rank'
check 'and written down' test "$(chosen auto4 data)" = 4

# The software's 2 GiB alone are more.
auto 2 run_dir=none parallel.memory=100
status=$?
check 'too little memory is refused' test $status = 2
told 'with what is missing' 'error: parallel: auto finds no layout of 2 ranks that fits the 100 MB of a rank: .* needs [0-9.]+ MB more'

auto 2 run_dir=staged parallel.links=host
same 'GPUs that exchange by way of their hosts' staged
table=little
auto 2 run_dir=little parallel.links=nccl parallel.auto='data zero' parallel.memory=3
same 'where memory is short, the bits of one GPU too' little
check 'gradients are shared then' test "$(chosen little zero)" = 2
auto 2 run_dir=refused parallel.links=host parallel.auto='data zero' parallel.memory=3
told 'which those that exchange by way of their hosts cannot' 'error: parallel: auto finds no layout .*the nearest .data 2, microbatch 1, zero 1. needs'
table=site

auto 2 run_dir=restarted steps=2
auto 1 run_dir=restarted
same 'a restart on fewer GPUs' restarted

train 1 run_dir=unknown parallel.auto=all device=cuda
same 'a GPU that the table lacks trains too' unknown
told 'with a warning' "warning: parallel: auto plans for 'CUDA on the processor' as for an A100-80 without NVLink"
CAIRN_HARDWARE=$scratch/site.yaml train 1 run_dir=found parallel.auto=all device=auto
same 'device: auto takes the GPU' found
told 'for sure' 'cuda float32'
finish
