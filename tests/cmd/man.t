#!/bin/sh
# Man pages: one for each subcommand, naming the options that the built command has, and no others; the keys of the config are those
# of the command's table; each page is sound.
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
pages=$CAIRN_SOURCE/doc/man
planned='ckpt config data doctor eval generate plan run train version'
registered=$("$CAIRN" --help | sed -n 's/^  \([a-z][a-z]*\) .*/\1/p')

# The long options in a help text's list of them.
options_of_help() { sed -n '/^options:$/,/^$/s/^ *\(-[a-z], \)\{0,1\}--\([a-z][a-z-]*\).*/\2/p' | sort -u; }
# Those that a page describes: tagged paragraphs of its section OPTIONS.
options_of_page() { sed -n '/^\.SH OPTIONS/,/^\.SH [^O]/p' "$1" | sed 's/\\-/-/g' | sed -n 's/^\.B.*--\([a-z][a-z-]*\).*/\1/p' | sort -u; }

# The help of a subcommand and of the words that its usage has after its name, one a line or joined by "|".
all_help() {
    "$CAIRN" "$1" --help || return 1
    words=$("$CAIRN" "$1" --help | sed -n "/^\$/q; s/^[a-z: ]*cairn $1 \([a-z|]*\).*/\1/p" | tr '|' ' ')
    for word in $words; do "$CAIRN" "$1" "$word" --help || return 1; done
}

check_options() {
    all_help "$1" >"$scratch/help.$1" || { fail "$1: every --help works"; return; }
    options_of_help <"$scratch/help.$1" | grep -vx help >"$scratch/built"
    options_of_page "$pages/cairn-$1.1" | grep -vx help >"$scratch/described"
    check "$1: options built (-) and described (+) are the same" diff -u "$scratch/built" "$scratch/described"
}

for name in $registered; do
    case " $planned " in
    *" $name "*) ;;
    *) fail "$name: has a man page" ; continue ;;
    esac
done
for name in $planned; do
    check "$name: cairn(1) names it" grep -q "^.BR cairn.-$name (1)" "$pages/cairn.1"
    case " $(echo $registered) " in
    *" $name "*) check_options "$name" ;;
    *) skip "$name: options" "cairn $name is not registered yet" ;;
    esac
done

sed -n '/begin of what cairn config/,/end of what cairn config/p' "$pages/cairn-config.5" | sed '1d;$d' >"$scratch/page"
"$CAIRN" config --roff >"$scratch/table"
check "the keys are the command's; if not, run 'make update-man'" diff -u "$scratch/page" "$scratch/table"

if command -v groff >/dev/null; then
    for page in "$pages"/*.[15]; do
        groff -man -Tutf8 -ww -z "$page" 2>"$scratch/warnings"
        check "$(basename "$page"): groff has no warning" sh -c 'cat "$1"; ! test -s "$1"' - "$scratch/warnings"
    done
else
    skip 'pages are sound' 'groff is not installed'
fi
finish
