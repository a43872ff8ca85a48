# Sourced by run and step in an unpacked bundle, whose folder is $CAIRN_BUNDLE. The programs get the bundle's libraries, PyTorch and what
# else is on the machine do not: only the commands below are started with them.
CAIRN_BUNDLE=$(cd "$CAIRN_BUNDLE" && pwd)
export CAIRN_BUNDLE CAIRN_SOURCE="$CAIRN_BUNDLE/source" CAIRN_BUILD="$CAIRN_BUNDLE"
export CAIRN_DATA_DIR="$CAIRN_SOURCE/src/plan"
export CAIRN_PLUGIN_DIR="$CAIRN_BUNDLE/plugin"
# It says why it refuses a product, to standard output unless it is told a file: one for each process (%i).
mkdir -p "$CAIRN_BUNDLE/cublasLt"
export CUBLASLT_LOG_LEVEL="${CUBLASLT_LOG_LEVEL:-1}" CUBLASLT_LOG_FILE="${CUBLASLT_LOG_FILE:-$CAIRN_BUNDLE/cublasLt/%i.log}"
export UCX_TLS=self,sm # ranks of one machine need no network
python=${PYTHON:-python3}

# The folder of a library of NVIDIA's: the system's, or that of PyTorch's packages.
find_library() {
    name=$1
    for folder in /usr/local/cuda/lib64 /usr/local/cuda*/lib64 /usr/local/cuda*/targets/x86_64-linux/lib /usr/lib/x86_64-linux-gnu; do
        if [ -n "$name" ] && [ -e "$folder/$name" ]; then echo "$folder"; return; fi
    done
    [ -z "$name" ] || "$python" - "$name" <<'EOF' 2>/dev/null
import glob, os, site, sys
for path in [*sys.path, *site.getsitepackages()]:
    for found in glob.glob(os.path.join(path, "nvidia", "*", "lib", sys.argv[1])):
        print(os.path.dirname(found))
        sys.exit()
EOF
}

if [ -z "${CAIRN_GPU_LIBRARIES:-}" ]; then
    CAIRN_GPU_LIBRARIES=$CAIRN_BUNDLE/lib
    for folder in "$(find_library "$(cat "$CAIRN_BUNDLE/cublas")")" "$(find_library libcudnn_graph.so.9)" "$(find_library libnccl.so.2)" /usr/local/nvidia/lib64 /usr/local/nvidia/lib; do
        if [ -n "$folder" ] && [ -d "$folder" ]; then CAIRN_GPU_LIBRARIES=$CAIRN_GPU_LIBRARIES:$folder; fi
    done
    CAIRN_GPU_LIBRARIES=$CAIRN_GPU_LIBRARIES${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export CAIRN_GPU_LIBRARIES
fi

# command NAME: the path of a script that starts the bundle's program NAME with its libraries.
command_of() {
    if [ ! -x "$CAIRN_BUNDLE/commands/$1" ]; then
        mkdir -p "$CAIRN_BUNDLE/commands"
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s/bin/%s "$@"\n' "$CAIRN_GPU_LIBRARIES" "$CAIRN_BUNDLE" "$1" >"$CAIRN_BUNDLE/commands/$1"
        chmod +x "$CAIRN_BUNDLE/commands/$1"
    fi
    echo "$CAIRN_BUNDLE/commands/$1"
}
CAIRN=$(command_of cairn)
MPIEXEC=$(command_of mpiexec.hydra)
export CAIRN MPIEXEC
