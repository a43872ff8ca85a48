#!/bin/sh
# cairn doctor: what it tells of a node with and without GPUs, and what is a trouble. NVIDIA's library is tests/cmd/nvml.c.
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
unset CUDA_VISIBLE_DEVICES SLURM_JOB_ID CAIRN_PMI_BRIDGE
cd "$scratch" || exit 99

mkdir driver bin
ln -s "$CAIRN_BUILD/tests/cmd/.libs/nvml.so" driver/libnvidia-ml.so.1
# with_gpus COMMAND...: the driver is there.
with_gpus() { LD_LIBRARY_PATH="$scratch/driver${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$@"; }

# tells NAME STATUS LINE COMMAND...: COMMAND ends with STATUS, and has LINE (extended regular expression) in its output.
tells() {
    tells_name=$1 tells_status=$2 line=$3
    shift 3
    "$@" >got.out 2>got.err
    status=$?
    if [ $status -eq "$tells_status" ] && grep -Eq -e "$line" got.out; then
        pass "$tells_name"
    else
        { echo "exit status $status, expected $tells_status, and a line: $line"; cat got.out got.err; } >difference
        fail "$tells_name" difference
    fi
}
also() { check "$1" grep -Eq -e "$2" got.out; }

# ---- without GPUs ----
if [ -e /dev/nvidiactl ]; then
    skip 'no driver' 'this machine has one'
else
    tells 'no driver is no trouble' 0 '^  ok +driver: no NVIDIA driver' "$CAIRN" doctor
    tells 'unless the plug-in is installed' 0 '^  warning +driver: no NVIDIA driver' env CAIRN_PLUGIN_DIR="$cuda_plugin" "$CAIRN" doctor
fi
also 'the last line counts' '^[^ ]+: 0 troubles, [0-9]+ warnings?$'
tells 'the machine' 0 '^  ok +processor: cpu bfloat16 .*oneDNN' "$CAIRN" doctor
also 'cores' '^  ok +cores: [0-9]+ of [0-9]+$'
also 'memory' '^  ok +memory: [0-9.]+ GB'
also 'locks' "^  ok +file locks: work in $scratch\$"
check 'no file is left by the locks' test "$(find . -name '.cairn*')" = ''
also 'MPI' '^  ok +MPI: .*(PMI bridge serves it|by itself)$'
also 'HDF5' '^  ok +HDF5: [0-9.]+, parallel$'
also '/dev/shm' '^  [a-z]+ +/dev/shm: [0-9]+ MB'

# ---- the driver ----
tells 'two sound GPUs' 0 '^  ok +driver: 580.65.06, for CUDA up to 13.0$' with_gpus "$CAIRN" doctor
also 'each by name' '^  ok +GPU 1: Emulated GPU, 0000:02:00.0, 80.0 GB of memory, 1.0 GB in use, compute capability 9.0$'
also 'no errors' '^  ok +GPU 1, ECC: on, 0 uncorrected errors since the driver was loaded, 0 in the GPU'
also 'nothing to repair' '^  ok +GPU 1, memory repair: 0 rows'
also 'the mode' '^  ok +GPU 1, compute mode: default$'
also 'the clocks' '^  ok +GPU 1, clocks: 41 C, not lowered'
also 'PCIe between them' '^  ok +GPU 1, links: GPU 0: a PCIe host bridge$'
also 'all are for this process' '^  ok +GPUs of this process: 0, 1 \(CUDA_VISIBLE_DEVICES is not set\)$'
also 'no plug-in is a warning now' '^  warning +cuda plug-in: not installed$'

bad() { NVML_BAD=$1 with_gpus "$CAIRN" doctor; }
tells 'uncorrected errors are a trouble' 1 '^  trouble +GPU 1, ECC: on, 3 uncorrected errors .*, 5 in' bad errors
also 'of that GPU alone' '^  ok +GPU 0, ECC: on, 0'
also 'with what to do' '^ +-> take the node out of use'
also 'counted' '^[^ ]+: 1 trouble, '
tells 'a row that waits for a reset is one' 1 '^  trouble +GPU 1, memory repair: .*, 1 for uncorrectable ones, one waits for a reset$' bad pending
tells 'a repair that failed is one' 1 '^  trouble +GPU 1, memory repair: .* one failed$' bad failed
tells 'pages that wait are one' 1 '^  trouble +GPU 1, memory repair: pages wait' bad pages
tells 'a lost GPU is one' 1 '^  trouble +GPU 1: it does not answer: NVML.s error 15$' bad lost
also 'the other is told all the same' '^  ok +GPUs of this process: 0 '
tells "another job's GPU is none" 0 '^  ok +GPU 1: not for this process' bad denied
tells 'ECC that is off is a warning' 0 '^  warning +GPU 1, ECC: off$' bad off
tells 'a prohibited GPU is a trouble' 1 '^  trouble +GPU 1, compute mode: prohibited$' bad prohibited
tells 'heat is a warning' 0 '^  warning +GPU 1, clocks: 93 C, lowered: heat$' bad hot
NVML_INIT=9 tells 'a driver that is not loaded is no trouble' 0 '^  ok +driver: no NVIDIA driver' with_gpus "$CAIRN" doctor
NVML_INIT=18 tells 'one half updated is' 1 '^  trouble +driver: it cannot be used: NVML.s error 18$' with_gpus "$CAIRN" doctor
also 'and wants a reboot' '^ +-> .*reboot the node$'

NVML_LINKS=peers tells 'NVLinks between GPUs' 0 '^  ok +GPU 0, links: GPU 1: 4 NVLinks 3\.0$' with_gpus "$CAIRN" doctor
NVML_LINKS=peers NVML_GPUS=4 tells 'to some of them' 0 '^  ok +GPU 0, links: GPU 1: 4 NVLinks 3\.0; GPU 2, 3: PCIe and the link between NUMA nodes$' \
    with_gpus "$CAIRN" doctor
NVML_LINKS=switch tells 'NVLinks to switches' 0 '^  ok +GPU 0, links: 18 NVLinks 4\.0 to switches$' with_gpus "$CAIRN" doctor
also 'fewer than on another GPU are a warning' '^  warning +GPU 1, links: 16 NVLinks 4\.0 to switches; 16 NVLinks are up, on other GPUs 18$'

visible() { CUDA_VISIBLE_DEVICES=$1 NVML_GPUS=4 with_gpus "$CAIRN" doctor --part gpus; }
# sees NAME LIST GPUS
sees() { tells "$1" 0 "\"GPUs of this process\".*\"text\":\"$3 \\(CUDA_VISIBLE_DEVICES=$2\\)\"" visible "$2"; }
sees 'a list of GPUs' '3,0' '3, 0'
sees 'ends at a GPU that there is not' '2,7,0' '2'
sees 'ends at one that is there already' '1,1,0' '1'
sees 'by UUIDs' 'GPU-2f,GPU-0f00-beef' '2, 0'
sees 'not by the beginning of several' 'GPU-,1' 'none'
sees 'an empty list is none' '' 'none'
also 'which is a warning' '"mark":"warning","text":"none '
sees 'so is -1' '-1,0' 'none'
sees 'a number is a whole one' '1x,0' 'none'

# ---- what hangs, and what dies ----
NVML_HANGS=1 tells 'a hang is cut off' 1 '^  trouble +examination: no answer within 3 s, after: driver$' \
    with_gpus timeout 60 "$CAIRN" doctor --wait 3
also 'what was found before is told' '^  ok +driver: 580'
also 'and the other parts are' '^  ok +memory: '
NVML_DIES=1 tells 'a crash is told' 1 '^  trouble +examination: the process that examined it died, after: driver$' with_gpus "$CAIRN" doctor

# ---- the cuda backend ----
if [ -z "${cuda_plugin:-}" ]; then
    skip 'the cuda plug-in' "${CAIRN_SKIP_CUDA:-not built}"
else
    plugged() { CAIRN_PLUGIN_DIR=$cuda_plugin "$@"; }
    CUDA_ON_CPU_DEVICES=2 tells 'the plug-in opens all GPUs' 0 '^  ok +cuda plug-in: opens 0000:01:00.0: cuda float32 ' plugged with_gpus "$CAIRN" doctor
    check 'each once' test "$(grep -c 'cuda plug-in: opens' got.out)" = 2
    CUDA_ON_CPU_DRIVER=12000 tells 'GPUs that it cannot use are a trouble' 1 '^  trouble +cuda plug-in: GPU 0 of this process: .*driver' \
        plugged with_gpus "$CAIRN" doctor
    [ -e /dev/nvidiactl ] ||
        CUDA_ON_CPU_DRIVER=12000 tells 'without GPUs a warning' 0 '^  warning +cuda plug-in: GPU 0 of this process: .*driver' plugged "$CAIRN" doctor
    mkdir other && echo nonsense >other/cuda.so
    tells 'a plug-in that cannot be loaded' 1 '^  trouble +cuda plug-in: .*cannot be loaded' env CAIRN_PLUGIN_DIR="$scratch/other" NVML_GPUS=1 \
        LD_LIBRARY_PATH="$scratch/driver" "$CAIRN" doctor
fi
tells 'NCCL' 0 '^  [a-z]+ +NCCL: ([0-9]+\.[0-9]+\.[0-9]+|libnccl.so.2 cannot be loaded)$' "$CAIRN" doctor
also 'cuDNN' '^  [a-z]+ +cuDNN: ([0-9]+\.[0-9]+\.[0-9]+|libcudnn.so.9 cannot be loaded)$'

# ---- Slurm ----
cat >bin/srun <<'END'
#!/bin/sh
case $1 in
--version) echo 'slurm-wlm 22.05.8' ;;
--mpi=list) printf 'MPI plugin types are...\n\tnone\n%s' "$MPI_TYPES" ;;
esac
END
chmod +x bin/srun
slurm() { PATH="$scratch/bin:$PATH" "$CAIRN" doctor; }
MPI_TYPES='	pmix' tells 'Slurm' 0 '^  ok +Slurm: slurm-wlm 22.05.8, in no job$' slurm
also 'and PMIx' '^  ok +Slurm, ways to start ranks: pmix$'
MPI_TYPES='	pmi2' tells 'no PMIx is a warning' 0 '^  warning +Slurm, ways to start ranks: pmi2$' slurm
MPI_TYPES='' tells 'nor PMI-2' 0 '^  warning +Slurm, ways to start ranks: neither' slurm
ln -s "$(command -v sh)" bin/sh
printf '#!/bin/sh\nexit 1\n' >bin/srun
SLURM_JOB_ID=7 tells 'a job without srun is a trouble' 1 '^  trouble +Slurm: in job 7, but srun' slurm
printf '#!/bin/sh\nexec sleep 60\n' >bin/srun
begin=$(date +%s)
tells 'an srun that hangs is given up' 0 '^  ok +Slurm: no srun here' slurm
check 'soon' test $(($(date +%s) - begin)) -lt 20
if "$CAIRN" version | grep -q '^MPICH'; then
    CAIRN_PMI_BRIDGE=no tells 'a bridge that is turned off' 0 '^  warning +MPI: .*CAIRN_PMI_BRIDGE=no' "$CAIRN" doctor
fi

# ---- JSON ----
NVML_BAD=errors tells '--json' 1 '^  "troubles": 1,$' with_gpus "$CAIRN" doctor --json
also 'numbers by name' '^ +"uncorrected_since_driver": 3'
also 'marks' '^ +"mark": "trouble",?$'
also 'advice' '^ +"advice": "take the node'
# Nothing but one object: each line is a brace, a bracket or a member.
check '--json: one object' sh -c '! grep -Evq "^ *([]{}[],?|\"[a-z_]+\": ([-0-9]+|\".*\"|[[{]|\[\]),?)$" got.out && head -n 1 got.out | grep -qx "{" && tail -n 1 got.out | grep -qx "}"'
if command -v python3 >/dev/null; then
    check '--json is JSON' sh -c 'python3 -m json.tool <got.out'
else
    skip '--json is JSON' 'python3 is not installed'
fi
expect '--json to a full device' 1 sh -c "'$CAIRN' doctor --json >/dev/full"
expect 'text to a full device' 1 sh -c "'$CAIRN' doctor >/dev/full"

# ---- usage ----
: >out
expect 'an argument is bad usage' 2 "$CAIRN" doctor nonsense
: >out
echo "cairn: error: there is no part 'nonsense'; there are gpus, cuda, software and machine" >err
expect 'a part that there is not' 2 "$CAIRN" doctor --part nonsense
: >out
expect 'no time to wait' 2 "$CAIRN" doctor --wait 0
finish
