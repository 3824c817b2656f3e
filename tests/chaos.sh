#!/bin/bash
# A long random run: a real ZooKeeper and HDFS, two TabletServers with copies of each other's partitions, three
# collectors and a scheduler, all of which are killed, paused and cut off while rows are written; then every row is
# looked for (tests/e2e/chaos.py says what is promised). Prints the seed, which replays.
#
#   tests/chaos.sh [--minutes N] [--seed S] [--data-path direct|proxy] [--build DIR] [--keep]
#
# Ten minutes and a new seed by default; the programs of build/gcc. Exit status 1: a promise was broken.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "${1:-}" != "--help" ] || { sed -n '2,9s/^# \{0,1\}//p' tests/chaos.sh; exit; }
exec /usr/bin/python3 tests/e2e/chaos.py "$@"
