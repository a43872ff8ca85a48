#!/bin/sh
# The command line of 'cairn data': what it prints and the codes it ends with.
set -u
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
cd "$scratch" || exit 99

# tells STATUS TEXT NAME COMMAND...: the command ends with STATUS and prints TEXT.
tells() {
    wanted=$1 text=$2 name=$3
    shift 3
    timeout -k 5 60 "$@" >out 2>&1 </dev/null
    got=$?
    if [ $got -eq "$wanted" ] && grep -qF -e "$text" out; then
        pass "$name"
    else
        echo "exit status $got, expected $wanted and: $text" >>out
        fail "$name" out
    fi
}

nothing_left() { check "$1 leaves nothing behind" sh -c '! ls | grep -E "tmp|spool"'; }

i=0
while [ $i -lt 4000 ]; do
    echo "line $i of a text that is only there to be imported"
    i=$((i + 1))
done >text.txt
gzip -c text.txt >text.gz
: >empty.txt
bytes=$(wc -c <text.txt)

tells 0 'usage' '--help' "$CAIRN" data --help
tells 2 'usage' 'no subcommand' "$CAIRN" data
tells 2 "there are import, info and verify" 'unknown subcommand' "$CAIRN" data frobnicate
tells 2 "no input file" 'no input' "$CAIRN" data import text -o x.h5
tells 2 "give -o" 'no output' "$CAIRN" data import text text.txt
tells 2 "the only kind" 'unknown kind' "$CAIRN" data import images text.txt -o x.h5
tells 2 "fraction" 'fraction out of range' "$CAIRN" data import text text.txt -o x.h5 --validation 1.5
tells 2 "power of two" 'odd chunk' "$CAIRN" data import text text.txt -o x.h5 --chunk 5000
tells 2 "compression level" 'level out of range' "$CAIRN" data import text text.txt -o x.h5 --compress 12
tells 1 "missing.txt: No such file" 'missing input' "$CAIRN" data import text text.txt missing.txt -o x.h5
tells 1 "empty" 'empty input' "$CAIRN" data import text empty.txt -o x.h5
tells 1 "a folder" 'folder as input' "$CAIRN" data import text . -o x.h5
tells 1 "cannot write" 'output in a folder that is not there' "$CAIRN" data import text text.txt -o nowhere/x.h5
tells 1 "empty" 'empty standard input' "$CAIRN" data import text - -o x.h5
head -c 1000 text.gz >cut.gz
tells 1 "cut.gz: the gzip data is cut off" 'cut off gzip' "$CAIRN" data import text cut.gz -o x.h5
cp text.txt fake.gz
tells 1 "not gzip data" 'a .gz that is none' "$CAIRN" data import text fake.gz -o x.h5
nothing_left 'a failed import'

tells 0 "train tokens" 'import' "$CAIRN" data import text text.txt -o x.h5
tells 1 "x.h5 is there already; --force replaces it" 'existing output' "$CAIRN" data import text text.txt -o x.h5
tells 0 "train tokens" 'existing output with --force' "$CAIRN" data import text text.txt -o x.h5 --force
tells 0 "train tokens" 'import of gzip' "$CAIRN" data import text text.gz -o z.h5 --compress 9
check 'import of standard input' "$CAIRN" data import text - -o s.h5 <text.txt
check 'import of gzip on standard input' "$CAIRN" data import text - -o sz.h5 <text.gz
check '... makes the same file' cmp s.h5 sz.h5
mkfifo pipe
cat text.txt >pipe &
tells 0 "train tokens" 'import of a pipe' "$CAIRN" data import text pipe -o p.h5
wait
nothing_left 'an import'

tells 0 "tokens (bytes, vocabulary 256)" 'info' "$CAIRN" data info x.h5
tells 0 '"vocabulary": 256' 'info --json' "$CAIRN" data info --json x.h5
tells 0 "\"source_bytes\": $bytes" 'info of the source' "$CAIRN" data info --json z.h5
tells 1 "not an HDF5 file" 'info of a text' "$CAIRN" data info text.txt
tells 2 "expected one file" 'info of nothing' "$CAIRN" data info
for f in x z s p; do
    tells 0 "are sound" "verify $f.h5" "$CAIRN" data verify $f.h5
done
fingerprints=$(for f in x z s p; do "$CAIRN" data info --json $f.h5 | grep fingerprint; done | sort -u | wc -l)
check 'one text has one fingerprint, whatever the layout' test "$fingerprints" -eq 1

# A byte of the text itself, somewhere in the file.
at=$(grep -abo 'line 2000 of' x.h5 | head -1 | cut -d: -f1)
cp x.h5 flipped.h5
printf 'L' | dd of=flipped.h5 bs=1 seek="$at" conv=notrunc 2>out
tells 1 "/train/tokens block 0" 'verify names the damaged block' "$CAIRN" data verify flipped.h5
tells 1 '"damaged": 1' 'verify --json' "$CAIRN" data verify --json flipped.h5
range=$("$CAIRN" data verify flipped.h5 | sed -n 's/.*bytes \([0-9]*\) to \([0-9]*\) of the file.*/\1 \2/p')
check "verify names the place: byte $at in $range" test -n "$range" -a "$at" -ge "${range% *}" -a "$at" -le "${range#* }"
head -c 100000 x.h5 >cut.h5
tells 1 "cut off" 'verify of a cut off file' "$CAIRN" data verify cut.h5

# Two imports of one name: neither refusal touches the first one's file.
mkfifo slow
"$CAIRN" data import text slow -o x.h5 --force >slow.out 2>&1 &
import=$!
exec 9>slow # opens when the import has opened its side
tells 1 "x.h5 is there already" 'existing output while it is made anew' "$CAIRN" data import text text.txt -o x.h5
check '... leaves the file that is being made' test -e x.h5.tmp
tells 1 "another import is making x.h5" '... with --force' "$CAIRN" data import text text.txt -o x.h5 --force
check '... leaves it too' test -e x.h5.tmp
cat text.txt >&9
exec 9>&-
wait $import
code=$?
explain() { cat slow.out; }
check '... and the first one ends well' test $code -eq 0
explain() { :; }
tells 0 "are sound" '... with a sound dataset' "$CAIRN" data verify x.h5
nothing_left 'a refused import'

# Ended while it waits for its input.
mkfifo never
"$CAIRN" data import text never -o n.h5 >out 2>&1 &
import=$!
exec 9>never # opens when the import has opened its side
kill -TERM $import
wait $import
check 'SIGTERM ends an import' test $? -eq 143
exec 9>&-
nothing_left 'an ended import'

# A full disk, where this user may mount one.
head -c 2000000 /dev/urandom >long.txt # does not compress
mkdir small
export UCX_TLS=self,sm # ranks of one machine need no network
if unshare -m true 2>/dev/null; then
    for how in "" "--compress 1 --chunk 4096"; do
        tells 1 "No space left on device" "full disk ($how)" unshare -m sh -c "mount -t tmpfs -o size=300k none small &&
            { $CAIRN data import text long.txt -o small/x.h5 --validation 0.1 $how; code=\$?; ls small; exit \$code; }"
        check '... leaves nothing behind' sh -c '! grep "x.h5.tmp$" out'
    done
    # Rank 0 alone writes; the other has a piece of the validation split to come.
    tells 1 "No space left on device" "full disk (2 ranks)" unshare -m sh -c "mount -t tmpfs -o size=300k none small &&
        timeout -k 5 30 $MPIEXEC -n 2 $CAIRN data import text long.txt -o small/x.h5 --validation 0.1 --compress 1"
else
    skip 'full disk' 'needs the right to mount'
fi
finish
