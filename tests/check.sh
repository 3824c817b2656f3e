#!/bin/bash
# Builds libosync and passes all its tests, on a fresh Debian 12 as root, or wherever the packages are installed
# already.
#
#   tests/check.sh             everything that a change has to pass
#   tests/check.sh --setup     only installs what building and testing need
#   tests/check.sh --fast      without the end-to-end tests
#   tests/check.sh -k WORDS    of the end-to-end tests only those that pytest's -k selects
#
# Two builds: gcc (what is shipped; the end-to-end tests run it) and clang with ASan and UBSan (the unit tests run it).
# Quiet when all is well; what a step printed is shown when it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(gcc g++ clang libclang-rt-14-dev clang-format meson ninja-build pkg-config protobuf-c-compiler
  libprotobuf-c-dev libuv1-dev libcurl4-openssl-dev libzookeeper-mt-dev libjansson-dev librocksdb-dev libsnappy-dev
  libsqlite3-dev libexpat1-dev libhttp-parser-dev libisal-dev uthash-dev libxxhash-dev zlib1g-dev libcmocka-dev
  abigail-tools python3 python3-pytest python3-build python3-setuptools python3-venv python3-wheel python3-pandas zsh
  fish zookeeper maven
  openjdk-17-jdk-headless protobuf-compiler spin tzdata xz-utils curl ca-certificates git dpkg-dev fakeroot debhelper
  dh-python lintian adduser ccache)

setup() {
  local missing=() p
  for p in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" -eq 0 ] || { echo "these Debian packages are missing: ${missing[*]}"; return 1; }
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
  fi
  /usr/bin/python3 tests/e2e/jars.py fetch # Hadoop's and brpc-java's, from Maven Central
}

# The form of every text file: .clang-format for C, .editorconfig's rules for all.
style() {
  git ls-files -z '*.c' '*.h' | xargs -0 clang-format --dry-run -Werror
  local bad
  bad=$(git ls-files -z -- . ':!tests/fixtures' ':!LICENSE' | xargs -0 grep -nIE '[[:space:]]$' || true)
  [ -z "$bad" ] || { echo "white space at the end of a line:"; echo "$bad" | head -20; return 1; }
  bad=$(git ls-files -z -- . ':!tests/fixtures' | xargs -0 grep -lP '[\t\r]' || true)
  [ -z "$bad" ] || { echo "a tab or a carriage return: $bad"; return 1; }
  bad=$(git ls-files -z -- '*.c' '*.h' '*.py' '*.sh' '*.build' | xargs -0 grep -nE '^.{121,}' || true)
  [ -z "$bad" ] || { echo "longer than 120 columns:"; echo "$bad" | head -20; return 1; }
  bad=$(git ls-files -- . ':!tests/fixtures' | while read -r f; do [ -z "$(tail -c1 "$f")" ] || echo "$f"; done)
  [ -z "$bad" ] || { echo "no newline at the end: $bad"; return 1; }
}

configure() { # folder, options...
  local dir=$1
  shift
  if [ -f "$dir/build.ninja" ]; then meson setup --reconfigure "$dir" "$@"; else meson setup "$dir" "$@"; fi
}

build_gcc() { CC=gcc configure build/gcc -Dwerror=true -Dbuildtype=release && ninja -C build/gcc; }
build_clang() {
  CC=clang configure build/clang -Dwerror=true -Dfailpoints=true -Db_sanitize=address,undefined -Db_lundef=false &&
    ninja -C build/clang
}
# Random histories through the real reader, and the models of the protocols; what they count is printed at the end.
seams() {
  (cd tests && OSYNC_HISTORIES=10000 ../build/gcc/tests/unit/test_seams)
  echo "histories 10000" >>build/numbers
}
model() { tests/model.sh; }
# OpenSSL's and RocksDB's one-time allocations are theirs; what is ours must be freed.
unit() { UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 meson test -C build/clang --print-errorlogs --no-rebuild; }

step() { # name, command...
  local name=$1 log status start=$SECONDS
  log=build/check-$(echo "$name" | tr -c 'a-z0-9\n' '-').log
  shift
  printf '%-30s' "$name"
  # Not in a condition: there `set -e` would be off, and a command that fails in the middle would go unnoticed.
  set +e
  (set -e && "$@") >"$log" 2>&1
  status=$?
  set -e
  if [ $status -eq 0 ]; then
    printf 'ok  %4d s\n' $((SECONDS - start))
  else
    printf 'FAILED; from %s:\n' "$log"
    tail -n 100 "$log"
    exit 1
  fi
}

fast=false select=()
while [ $# -gt 0 ]; do
  case $1 in
  --setup)
    setup
    exit
    ;;
  --fast) fast=true ;;
  -k)
    select=(-k "$2")
    shift
    ;;
  *)
    echo "usage: tests/check.sh [--setup | --fast | -k WORDS]"
    exit 2
    ;;
  esac
  shift
done

mkdir -p build
step "packages" setup
step "style" style
step "build (gcc)" build_gcc
step "build (clang, sanitizers)" build_clang
step "unit tests (sanitizers)" unit
grep -E '^(Ok|Fail|Expected Fail|Skipped|Timeout):' "build/check-unit-tests--sanitizers-.log"
$fast && exit
: >build/numbers
step "read side (10,000 histories)" seams
step "models (spin)" model
tail -n 1 build/check-models--spin-.log
export OSYNC_BUILD=$PWD/build/gcc OSYNC_BUILD_FAULTS=$PWD/build/clang OSYNC_NUMBERS=$PWD/build/numbers
/usr/bin/python3 -m pytest -q -p no:cacheprovider tests/e2e "${select[@]}"
