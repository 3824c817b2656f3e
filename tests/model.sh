#!/bin/bash
# Checks the models in docs/model with Spin: the properties hold in all states within the bounds that are named here,
# each model can come to a good end after every fault, and each mutant, which leaves out one rule of the protocol, has
# the counterexample that is named here. Two runs at a time, in a temporary folder.
#
#   tests/model.sh             all; prints one line if all is well
#   tests/model.sh NAME        that run only, and its counterexample step by step if it has one
#
# The words that a counterexample must show: twice (a row is published again), gap (a point is committed whose rows
# aren't), partial (a file that isn't whole is published), failed (a partition stops although nobody did anything to
# it), lost (the last links to rows that aren't committed are dropped), early (links to them are, or to
# rows that are still to be read), missing (a report that is over is believed, and its file isn't there), litter (a
# stager that was given up leaves files where another one writes), end (that is no fault: the model comes to its end).
set -euo pipefail
cd "$(dirname "$0")/.."

runs() {
  local S="-DTMO=1 -DCRASHES=0" N="-DTMO=0 -DCRASHES=0" C="-DTMO=0 -DCRASHES=1" OLD="-DCONSUME=1 -DOLD_ONLY"
  local A="-DTMO=1 -DCRASHES=0 -DDEATHS=0" D="-DTMO=0 -DCRASHES=1 -DDEATHS=0"
  local ELSE="-DELSEWHERE $OLD" BOTH="-DELSEWHERE -DBOTH_LOST $OLD" H="-DROWS=2 -DHANDOUTS=2 -DPURGE"
  cat <<END
commit one-store holds -DTMO=1 -DCRASHES=1 -DCONSUME=1
commit twice-sent holds $S -DDUPS=1
commit twice-sent-consumer holds $N -DDUPS=1 -DCONSUME=1
commit foreign-folder holds $S -DFOREIGN
commit removal holds -DTMO=1 -DCRASHES=1 -DREMOVE
commit lost holds $S -DLOST $OLD
commit lost-crash holds $C -DLOST $OLD
commit lost-twice-sent holds $N -DDUPS=1 -DLOST $OLD
commit elsewhere holds $S $ELSE -DINCS=4
commit elsewhere-crash holds $C $ELSE
commit both-lost holds $S $BOTH
commit both-lost-crash holds $C $BOTH
handover answers holds -DTMO=1 -DCRASHES=0 -DTROUBLES=1 $H
handover crashes holds -DTMO=0 -DCRASHES=1 -DTROUBLES=0 $H
handover three holds -DTMO=1 -DCRASHES=0 -DTROUBLES=0 $H -DHANDOUTS=3
handover rows holds -DTMO=1 -DCRASHES=0 -DTROUBLES=1 -DROWS=3 -DHANDOUTS=2
handover original holds -DTMO=1 -DCRASHES=0 -DTROUBLES=1 -DROWS=3 -DHANDOUTS=2 -DORIGINAL
direct direct-answers holds $A
direct direct-twice-sent holds -DTMO=0 -DCRASHES=0 -DDEATHS=0 -DDUPS=1
direct direct-rows-too holds $A -DROWS_TOO=1 -DNAMES=3
direct direct-crashes holds $D -DROWS_TOO=1
direct direct-deaths holds -DTMO=0 -DCRASHES=0 -DDEATHS=1
direct direct-one-stays holds -DTMO=1 -DCRASHES=1 -DDEATHS=0 -DHANDOUTS=1
direct direct-both-die holds -DTMO=0 -DCRASHES=1 -DDEATHS=1 -DHANDOUTS=1
direct direct-answers-deaths holds -DTMO=1 -DCRASHES=0 -DDEATHS=1 -DHANDOUTS=1
commit end-one-store end -DTMO=1 -DCRASHES=1 -DCONSUME=1 -DREACH
commit end-lost end $S -DLOST $OLD -DREACH
commit end-elsewhere end $S $ELSE -DREACH
handover end-handover end -DTMO=1 -DCRASHES=1 -DTROUBLES=1 $H -DREACH
direct end-direct end -DTMO=1 -DCRASHES=1 -DDEATHS=1 -DROWS_TOO=1 -DREACH
commit by-final-name twice $S -DCONSUME=1 -DBY_FINAL_NAME
commit look-before-fence twice $S -DCONSUME=1 -DLOOK_BEFORE_FENCE
commit no-take-over failed $S -DNO_TAKE
commit plain-rename gap $S -DFOREIGN -DPLAIN_RENAME
commit reuse-name partial $S -DREUSE_NAME
commit no-wait failed $S -DNO_WAIT
commit list-before-fence twice $S -DLOST $OLD -DLIST_BEFORE_FENCE
commit version-cas twice $N -DLOST $OLD -DVERSION_CAS
commit no-others twice $S -DLOST $OLD -DNO_OTHERS
commit no-file-id twice $S -DCONSUME=1 -DDUPS=1 -DNO_FILE_ID
commit refused-is-failed twice $N -DCONSUME=1 -DDUPS=1 -DREFUSED_IS_FAILED
commit early-clean failed $S -DEARLY_CLEAN
commit name-is-ours gap $S $ELSE -DNAME_IS_OURS
commit no-claim twice $S $ELSE -DNO_CLAIM
commit one-look failed $S $ELSE -DONE_LOOK
commit mkdirs-again gap $S $ELSE -DMKDIRS_AGAIN
commit unordered-claims twice|failed $N $BOTH -DUNORDERED_CLAIMS
handover delete-at-once lost -DTMO=1 -DCRASHES=0 $H -DDELETE_AT_ONCE
handover delete-when-accepted lost -DTMO=1 -DCRASHES=0 $H -DDELETE_WHEN_ACCEPTED
handover finish-early lost -DTMO=1 -DCRASHES=0 $H -DFINISH_EARLY
handover release-taken early -DTMO=1 -DCRASHES=0 $H -DRELEASE_TAKEN
handover keep-end gap -DTMO=1 -DCRASHES=0 $H -DKEEP_END
handover no-start-check gap -DTMO=1 -DCRASHES=0 $H -DNO_START_CHECK
handover release-always early -DTMO=0 -DCRASHES=1 -DTROUBLES=0 $H -DRELEASE_ALWAYS
handover answer-early early -DTMO=1 -DCRASHES=0 $H -DORIGINAL -DANSWER_EARLY
direct remove-reported gap $A -DREMOVE_REPORTED
direct no-file-start-check twice $A -DROWS_TOO=1 -DNO_START_CHECK
direct same-incarnation litter $A -DSAME_INCARNATION
direct no-incarnation-check missing $D -DNO_INCARNATION_CHECK
direct trust-report gap $D -DNO_INCARNATION_CHECK -DTRUST_REPORT
direct adopt-open gap $A -DROWS_TOO=1 -DADOPT_OPEN
END
}

# The words for what an assertion of the models says.
words() {
  case $1 in
  *'!((published&(1<<k)))'*) echo twice ;;
  *'(published&((1<<'* | *'committed[k]=='* | *'staged[k]=='*) echo gap ;;
  *'(st['*']==2)'*) echo partial ;;
  *'.inc==inc)'* | *'.gen==gen)'*) echo failed ;;
  *'(from['*']<=cp) (at'* | *'(from['*']<=point)'*) echo early ;;
  *'from['*) echo lost ;;
  *'holder=='*) echo litter ;;
  *'violated yes '*) echo missing ;;
  *'violated 0 '* | *'tmo>0'*) echo end ;;
  *) echo "something else" ;;
  esac
}

# Runs one line of runs in its own folder; prints "<result> <states> <name>".
one() {
  local model=$1 name=$2 want=$3 got states
  shift 3
  mkdir "$WORK/$name"
  cp "docs/model/$model.pml" "$WORK/$name/model.pml"
  cd "$WORK/$name"
  {
    spin -a "$@" model.pml
    gcc -O2 -DSAFETY -DCOLLAPSE -DVECTORSZ=512 -DMEMLIM=1900 -o pan pan.c
    nice ./pan -m100000 -w23
  } >log 2>&1 || true
  rm -f pan pan.?
  states=$(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' log)
  if grep -q 'errors: 0$' log && ! grep -qi 'not completed\|too small\|truncated' log; then
    got=holds
  else
    got=$(words "$(grep -m1 '^pan:1: assertion violated' log || echo none)")
  fi
  if [[ "|$want|" == *"|$got|"* ]]; then
    echo "ok ${states:-0} $name $want"
  else
    echo "WRONG ${states:-0} $name: $got instead of $want; $model.pml $*"
    grep -E '^pan|rror' log | head -5 >&2
  fi
  if [ -n "${SHOW:-}" ] && [ -f model.pml.trail ]; then
    spin -t "$@" model.pml | sed '/^#processes/,$d'
  fi
}

# Every step that the models name is a failpoint: a place where the tests end the daemons.
names() {
  local known name bad=""
  known=$(sed -n 's/^F(\([a-z_]*\),.*/ \1 /p' libosync/base/failpoint.def)
  for name in $({
    grep -ohE '\[[a-z_, ]{4,}\]' docs/model/*.pml
    sed -n '/^mtype = {/,/and how they go/p' docs/model/commit.pml docs/model/direct.pml | sed 's,/\*.*,,; s/.*{//'
  } | tr -d '[]' | tr ',' '\n'); do
    [[ "$known" == *" $name "* ]] || bad="$bad $name"
  done
  [ -z "$bad" ] || { echo "docs/model names steps that libosync/base/failpoint.def doesn't have:$bad"; return 1; }
}

if [ "${1:-}" = --one ]; then
  shift
  one "$@"
  exit
fi

command -v spin >/dev/null || { echo "spin is missing (Debian package spin)"; exit 1; }
names
WORK=$(mktemp -d)
export WORK
trap 'rm -rf "$WORK"' EXIT
if [ $# -gt 0 ]; then
  line=$(runs | awk -v name="$1" '$2 == name')
  [ -n "$line" ] || { echo "there is no run called $1:"; runs | awk '{print $2}'; exit 2; }
  # shellcheck disable=SC2086
  SHOW=1 tests/model.sh --one $line
  exit
fi
start=$SECONDS
runs | xargs -P 2 -L 1 tests/model.sh --one >"$WORK/results"
if grep -q '^WRONG' "$WORK/results" || [ "$(wc -l <"$WORK/results")" -ne "$(runs | wc -l)" ]; then
  cat "$WORK/results"
  exit 1
fi
awk -v s=$((SECONDS - start)) '
  $4 == "holds" { holds++; states += $2 }
  $4 != "holds" && $4 != "end" { mutants++ }
  END { printf "%d runs hold in %d states, all %d mutants are caught, %d s\n", holds, states, mutants, s }
' "$WORK/results"
