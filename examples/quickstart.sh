#!/bin/bash
# The whole of libosync in a minute, on this machine alone: builds it, starts a ZooKeeper, a test TabletServer with a
# disk table and both daemons, and copies the table's rows to files.
#
#   examples/quickstart.sh            to a local folder (file://)
#   examples/quickstart.sh --hdfs     to a real HDFS: a NameNode and a DataNode from Maven Central
#   examples/quickstart.sh --rows N   with another number of rows than 300000
#
# On a fresh Debian 12 (as root) it installs what is missing. Everything listens on 127.0.0.1, on free ports, works in
# a temporary folder, and is gone in the end.
set -euo pipefail
cd "$(dirname "$0")/.."
usage() { sed -n '2,10s/^# \{0,1\}//p' examples/quickstart.sh; }
rows=300000 hdfs=false
while [ $# -gt 0 ]; do
  case $1 in
  --hdfs) hdfs=true ;;
  --rows)
    rows=${2:-}
    [[ $rows =~ ^[1-9][0-9]{0,8}$ ]] || { echo "--rows needs a number from 1 to 999999999, not '$rows'" >&2; exit 2; }
    shift
    ;;
  --help)
    usage
    exit
    ;;
  *)
    echo "unknown option '$1'" >&2
    usage >&2
    exit 2
    ;;
  esac
  shift
done

work=$(mktemp -d "${TMPDIR:-/tmp}/osync-quickstart-XXXXXX")
python=/usr/bin/python3 pids=() build=build/gcc
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

cleanup() {
  local status=$?
  trap '' INT TERM HUP # a second Ctrl-C doesn't leave half of it behind
  set +e
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; done
  [ -d "$work/zookeeper" ] && $python tests/e2e/zookeeper.py stop "$work/zookeeper"
  [ -d "$work/hdfs" ] && $python tests/e2e/hdfs.py stop "$work/hdfs"
  if [ $status -ne 0 ] && [ $status -lt 128 ]; then
    say "It did not work. The last lines of the logs:"
    tail -n 15 "$work"/*.log 2>/dev/null
  fi
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

free_port() { $python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
quietly() { "$@" >"$work/step.log" 2>&1; }
# until CONDITION...: asks ten times a second, for a minute.
until_true() {
  for _ in $(seq 600); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.1
  done
  echo "waited a minute for: $*"
  return 1
}
post() { curl -sf -H 'Content-Type: application/json' -d "$3" "http://$1/$2"; }
control() { # the test TabletServer's method, fields
  local answer
  answer=$(post "127.0.0.1:$tablet_port" "osync.test.TestTablet/$1" "$2")
  [ "$(jq_code "$answer")" = 0 ] || { echo "$1: $answer"; return 1; }
}
jq_code() { $python -c 'import json, sys; print(json.loads(sys.argv[1]).get("code", 0))' "$1"; }

say "Building (what is missing is installed first)"
quietly tests/check.sh --setup
[ -f $build/build.ninja ] || quietly meson setup $build
quietly ninja -C $build

say "Starting ZooKeeper$($hdfs && echo ', HDFS') and a TabletServer with a disk table of $rows rows"
zookeeper=$($python tests/e2e/zookeeper.py start "$work/zookeeper")
conf=""
if $hdfs; then
  conf=$($python tests/e2e/hdfs.py start "$work/hdfs")
fi
mkfifo "$work/ready"
$build/tests/tablet/osync-test-tablet --endpoint 127.0.0.1:0 --root "$work/tablet" --zk "$zookeeper" \
  >"$work/ready" 2>"$work/tablet.log" &
pids+=($!)
read -r _ tablet_port <"$work/ready"
control CreateTable '{"partitions": 4, "meta": {"tid": 1, "db": "demo", "name": "trades", "storage_mode": "kSSD",
  "column_desc": [{"name": "id", "data_type": "kBigInt"}, {"name": "account", "data_type": "kString"},
    {"name": "ts", "data_type": "kTimestamp"}, {"name": "amount", "data_type": "kDouble"},
    {"name": "note", "data_type": "kString"}],
  "column_key": [{"index_name": "by_account", "col_name": ["account"], "ts_name": "ts"}]}}'
control Generate "{\"tid\": 1, \"rows\": $((rows * 9 / 10)), \"payload_bytes\": 100}"
control MakeSnapshot '{"tid": 1}'
control Generate "{\"tid\": 1, \"rows\": $((rows - rows * 9 / 10)), \"payload_bytes\": 100}"

say "Starting osync-collectord and osync-syncd"
cat >"$work/data_collector.flags" <<END
--endpoint=127.0.0.1:$(free_port)
--zk_cluster=$zookeeper
--zk_root_path=/openmldb
--collector_datadir=$work/collector
# The table stands still here; a TabletServer in use needs the default of a minute.
--snapshot_settle_ms=0
END
sync=127.0.0.1:$(free_port)
cat >"$work/synctool.properties" <<END
server.host=127.0.0.1
server.port=${sync#*:}
zookeeper.cluster=$zookeeper
zookeeper.root_path=/openmldb
sync_task.progress_path=$work/state
sync_task.check_period=1
roll.interval=2
csv.timezone=UTC
END
if $hdfs; then echo "hadoop.conf.dir=$conf" >>"$work/synctool.properties"; fi
$build/daemons/osync-collectord --flagfile="$work/data_collector.flags" 2>"$work/collectord.log" &
pids+=($!)
$build/daemons/osync-syncd -c "$work/synctool.properties" 2>"$work/syncd.log" &
pids+=($!)
until_true grep -q registered "$work/collectord.log"
until_true curl -sf "http://$sync/status"

if $hdfs; then dest=/warehouse/trades; else dest=file://$work/warehouse/trades; fi
say "synctool_helper.py create -t demo.trades -m 0 -d $dest"
helper() { $python bindings/python/synctool_helper.py "$@" -s "$sync"; }
helper create -t demo.trades -m 0 -d "$dest"

say "Progress (synctool_helper.py status shows more)"
shown=""
while :; do
  line=$(post "$sync" openmldb.datasync.SyncTool/TaskStatus '{}' | $python -c '
import json, sys
tasks = json.load(sys.stdin).get("task", [])
if tasks:
    print(sum(int(t["count"]) for t in tasks), "rows committed;", " ".join(t["status"] for t in tasks))
if any(t["status"] == "FAILED" for t in tasks):
    sys.exit(1)')
  [ -n "$line" ] || break
  [ "$line" = "$shown" ] || printf '  %s of %s\n' "${line%% *}" "$rows ${line#* }"
  shown=$line
  sleep 0.5
done
echo "  done: a full sync ends by itself"

say "The files"
if $hdfs; then
  $python - "$work/hdfs" $dest "$work/warehouse" <<'END'
import pathlib, sys
sys.path.insert(0, "tests/e2e")
from hdfs import Hdfs
servers, dest, to = sys.argv[1:]
hdfs = Hdfs(servers)
folder = pathlib.Path(to, "trades")
folder.mkdir(parents=True)
for name in hdfs.list(dest):
    print(f"  hdfs:{name}")
    (folder / name.rsplit("/", 1)[1]).write_bytes(hdfs.read(name))
END
else
  ls -l "$work"/warehouse/trades | awk 'NR > 1 {print "  " $5 " bytes  " $9}'
fi
files=("$work"/warehouse/trades/*.csv)
head -n 3 "${files[0]}" | cut -c1-110 | sed 's/^/  /'
total=$(cat "${files[@]}" | wc -l)
different=$(cat "${files[@]}" | cut -d, -f1 | sort -u | wc -l)
say "$total rows in ${#files[@]} files, $different of them different; $rows were put"
[ "$total" = "$rows" ] && [ "$different" = "$rows" ]
