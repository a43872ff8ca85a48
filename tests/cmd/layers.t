#!/bin/sh
# Who may include whom (doc/design.md, "The house"): an include of a part that is not listed runs up an arrow.
. "$CAIRN_SOURCE/tests/cmd/tap.sh"

# part: the parts, or single headers of them, that it may include, itself aside
allowed() {
    case $1 in
        base) echo "cairn" ;;
        tensor) echo "base cairn" ;;
        schedule) echo "base cairn" ;;
        job) echo "tensor base cairn" ;;
        mesh) echo "kernels job tensor base cairn" ;;
        kernels) echo "tensor base cairn" ;;
        graph) echo "kernels mesh tensor base cairn" ;;
        model) echo "graph kernels mesh tensor base cairn" ;;
        io | ckpt) echo "mesh job tensor base cairn" ;;
        plan) echo "model schedule mesh tensor base cairn" ;;
        train) echo "plan schedule model graph kernels io ckpt mesh job tensor base cairn" ;;
        slurm) echo "mesh/layout.h job tensor base cairn" ;;
        server) echo "train plan schedule model graph kernels io ckpt mesh job tensor base cairn" ;;
        doctor) echo "slurm kernels job tensor base cairn" ;;
        cmd) echo "doctor server train plan slurm schedule model graph kernels io ckpt mesh job tensor base cairn" ;;
        cairn) echo "" ;;
    esac
}

for part in cairn base tensor schedule job mesh kernels graph model io ckpt plan train server slurm doctor cmd; do
    folder=$CAIRN_SOURCE/src/$part
    [ -d "$folder" ] || folder=$CAIRN_SOURCE/$part
    grep -rnE --include='*.[ch]' --include='*.cu' --include='*.inc' '^#include "[a-z_]+/' "$folder" >"$scratch/includes"
    while IFS= read -r line; do
        included=$(printf '%s\n' "$line" | sed 's/.*#include "\([a-z_]*\)\/.*/\1/')
        header=$(printf '%s\n' "$line" | sed 's/.*#include "\([^"]*\)".*/\1/')
        case " $part $(allowed "$part") " in
            *" $included "* | *" $header "*) ;;
            *) printf '%s\n' "$line" ;;
        esac
    done <"$scratch/includes" >"$scratch/wrong"
    if [ -s "$scratch/wrong" ]; then fail "$part includes only what is below it" "$scratch/wrong"; else pass "$part includes only what is below it"; fi
done
finish
