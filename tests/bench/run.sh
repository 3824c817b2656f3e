#!/bin/bash
# Measures libosync, each figure beside a reference of the same run.
#
#   tests/bench/run.sh                   all benches; less than 15 minutes on two cores that do nothing else
#   tests/bench/run.sh --rows N          rows of the larger tables (1,000,000)
#   tests/bench/run.sh --json FILE       also writes one JSON object a line
#   tests/bench/run.sh --only NAME,...   some of scan, binlog, encode, sink, end_to_end, latency, follow, idle, scale
#   tests/bench/run.sh --perf FOLDER     of end_to_end: what `perf record` sees of each process
#   tests/bench/run.sh --quick           once and small: whether it works
#
# Builds with optimisation in build/bench, works below TMPDIR on 127.0.0.1, and leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" -ne 0 ] || tests/check.sh --setup >/dev/null
[ -f build/bench/build.ninja ] || CC=gcc meson setup build/bench -Dbuildtype=release >/dev/null
ninja -C build/bench daemons/osync-{collectord,syncd} tests/tablet/osync-test-tablet tests/bench/osync-bench >/dev/null
export OSYNC_BUILD=$PWD/build/bench PYTHONPATH=$PWD/tests/e2e
exec /usr/bin/python3 tests/bench/run.py "$@"
