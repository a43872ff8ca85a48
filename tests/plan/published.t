#!/bin/sh
# Published runs beside what cairn plan says of them: prints every row with its error and the means. The ten runs of Narayanan et al. must
# be within 10 % on average and within 20 % each; the others within 10 % on average for each GPU; what was out of memory must be refused and
# what ran must not.
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
unset CAIRN_HARDWARE

printf '%s\n' 'batch: {samples: 1}' >"$scratch/run.yaml"

# plan_row: the row's layout as JSON, from the variables that the loop reads.
plan_row() {
    "$CAIRN" plan "$scratch/run.yaml" --nodes "$nodes" --gpus-per-node "$per_node" --gpu "$gpu" --software "$software" --precision "$precision" \
        --layout "$(printf %s "$layout" | tr ';' ',')" --json "model.layers=$layers" "model.width=$width" "model.heads=$heads" \
        "model.context=$context" "model.vocabulary=$vocabulary" "model.dropout=$dropout" "batch.microbatches=$batch"
}

# number KEY: the value of a key of the JSON in $scratch/json.
number() { sed -n "s/^ *\"$1\": \([^,]*\),\{0,1\}\$/\1/p" "$scratch/json" | head -n 1; }

# The published and the planned value as a time, so that errors have one sign: above zero is slower than published.
error_of() {
    if [ "$measure" = step_s ]; then number step; else number model_flops_per_gpu; fi |
        awk -v measure="$measure" -v published="$value" '{
            planned = measure == "step_s" ? $1 : $1 / 1e12
            error = measure == "step_s" ? planned / published - 1 : published / planned - 1
            printf "%.4g %+.1f\n", planned, 100 * error }'
}

printf '# %-12s %-26s %-8s %10s %10s %8s\n' set run gpu published planned error
grep -v '^#' "$CAIRN_SOURCE/tests/plan/published.csv" | tail -n +2 >"$scratch/rows"
while IFS=, read -r set run gpu nodes per_node software precision layers width heads context vocabulary dropout batch layout measure value; do
    if ! plan_row >"$scratch/json" 2>"$scratch/error"; then
        fail "$set $run is planned" "$scratch/error"
    elif [ "$measure" = fits ]; then
        case $(number fits) in true) said=yes ;; *) said=no ;; esac
        printf '# %-12s %-26.26s %-8s %10s %10s  %s of %s GB\n' "$set" "$run" "$gpu" "$value" "$said" \
            "$(number total | awk '{ printf "%.1f", $1 / 1e9 }')" "$(number limit | awk '{ printf "%.1f", $1 / 1e9 }')"
        check "$run: fits $value" test "$said" = "$value"
    else
        error_of >"$scratch/one"
        read -r planned error <"$scratch/one"
        printf '# %-12s %-26.26s %-8s %10s %10s %7s%%\n' "$set" "$run" "$gpu" "$value" "$planned" "$error"
        echo "$set $gpu $error" >>"$scratch/errors"
    fi
done <"$scratch/rows"

# mean NAME PATTERN: mean absolute error of the lines of errors that match; the largest; how many.
mean() { awk -v name="$1" -v pattern="$2" '$0 ~ pattern { e = $3 < 0 ? -$3 : $3; sum += e; n++; if (e > most) most = e }
    END { printf "%.1f %.1f %d\n", sum / n, most, n }' "$scratch/errors"; }

# judge NAME PATTERN MEAN MOST
judge() {
    mean "$1" "$2" >"$scratch/mean"
    read -r average most rows <"$scratch/mean"
    echo "# $1: $rows rows, mean absolute error $average %, largest $most %"
    check "$1: mean absolute error $average %, at most $3 %" awk "BEGIN { exit !($average <= $3) }"
    [ -z "$4" ] || check "$1: largest error $most %, at most $4 %" awk "BEGIN { exit !($most <= $4) }"
}
judge 'SC21 table 1' '^sc21 ' 10 20
judge 'other runs on A100-80' '^[^s].* A100-80 ' 10 ''
judge 'other runs on A100-40' '^[^s].* A100-40 ' 10 ''
judge 'other runs on H100' ' H100 ' 10 ''
finish
