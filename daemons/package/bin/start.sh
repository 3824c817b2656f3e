#!/bin/bash
# Starts and stops the two daemons of a package, as OpenMLDB's own bin/start.sh does: the same arguments, output lines,
# pid files and exit statuses. Unlike that it waits for what has to happen, not for a time.
#
#   start.sh start|stop|restart data_collector|synctool [mon]
#
# mon: a monitor starts the daemon again 3 s after it has ended, however it ended, until `stop`.
set -u

components="data_collector synctool"
if [ $# -lt 2 ]; then
  echo "Usage: start.sh start/stop/restart <component> [mon]"
  echo "component: $components"
  echo "start flag 'mon': a monitor starts the component, and starts it again when it has ended"
  echo "    stop ends both, and needs no 'mon'"
  exit 1
fi
op=$1 component=$2 mode=${3:-}
case " $components " in
*" $component "*) ;;
*)
  echo "No component named $component in [$components]"
  exit 1
  ;;
esac

cd "$(dirname "$0")/.." || exit 1
root=$PWD
pid_file=bin/$component.pid
log=logs/$component.log
red='' reset=''
[ -t 1 ] && red=$'\e[1;31m' reset=$'\e[0m'

# Whether a process of that number runs and is one of this component's, OpenMLDB's own included: after a reboot a
# number in a pid file may belong to anybody.
alive() {
  local names='data_collector|osync-collectord'
  [ "$component" = synctool ] && names='synctool|osync-syncd'
  [ -n "$1" ] && kill -0 "$1" 2>/dev/null && tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -qE "$names"
}
read_pid() { tr -cd 0-9 2>/dev/null <"$1"; }

# The value of a key, a pattern, in a file; the last one counts.
value() {
  local space='[[:space:]]*'
  sed -n "s/^$space$2$space[=:]$space\(.*[^[:space:]]\)$space\$/\1/p" "$1" | tail -n 1
}

# Host and port where the component answers. A wildcard address is asked at the loopback.
endpoint() {
  local host port at
  if [ "$component" = data_collector ]; then
    at=$(value conf/data_collector.flags '--\{0,1\}endpoint')
    host=${at%:*} port=${at##*:}
  else
    host=$(value synctool/conf/synctool.properties 'server\.host')
    port=$(value synctool/conf/synctool.properties 'server\.port')
  fi
  host=${host#[} host=${host%]}
  case $host in '' | 0.0.0.0) host=127.0.0.1 ;; ::) host=::1 ;; esac
  [ "$component" = synctool ] && echo "$host ${port:-8848}" || echo "$host ${port:-8888}"
}

# Whether something answers there, by the shell's own means: curl may not be there.
answers() ( # host, port
  exec 3<>"/dev/tcp/$1/$2" || exit 1
  printf 'GET /status HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$1" >&3
  read -r -t 5 line <&3
  [[ $line == HTTP/* ]]
)

# Becomes the daemon.
run() {
  if [ "$component" = data_collector ]; then
    exec ./bin/data_collector --flagfile=./conf/data_collector.flags --enable_status_service=true
  else
    cd synctool/bin && exec sh ./synctool.sh
  fi
}

# The monitor itself. The daemon's process number is in a file.
monitor() {
  local child='' ended=false
  trap 'ended=true; [ -n "$child" ] && kill "$child" 2>/dev/null' TERM INT
  while ! $ended; do
    (trap - TERM INT; run) >>"$log" 2>&1 &
    child=$!
    $ended && kill "$child" # told to end before the line above
    echo "$child" >"$pid_file.child"
    until wait "$child" || ! kill -0 "$child" 2>/dev/null; do :; done # a signal also ends the wait
    echo "$(date '+%F %T') process $child has ended"
    child=''
    $ended || { sleep 3 & wait $!; }
  done
  rm -f "$pid_file.child"
}

start() {
  local pid='' child='' host port
  echo "Starting $component ... "
  mkdir -p logs || exit 1
  pid=$(read_pid "$pid_file")
  if alive "$pid"; then
    echo "${red}$component already running as process $pid ${reset}"
    exit 0
  fi
  if [ "$component" = synctool ] && [ -f conf/synctool.properties ]; then
    echo "Rewrite properties by ./conf/synctool.properties"
    mkdir -p synctool/conf && cp conf/synctool.properties synctool/conf/synctool.properties
  fi
  rm -f "$pid_file.child"
  # In a session of its own, so that neither a terminal that closes nor Ctrl-C ends it.
  if [ "$mode" = mon ]; then
    setsid "$BASH" bin/start.sh monitor "$component" </dev/null >>"logs/${component}_mon.log" 2>&1 &
    pid=$!
    for _ in $(seq 50); do
      child=$(read_pid "$pid_file.child")
      [ -n "$child" ] && break
      sleep 0.1
    done
    echo "mon pid is $pid, process pid is $child, check $child status"
  else
    setsid "$BASH" bin/start.sh run "$component" </dev/null >>"$log" 2>&1 &
    pid=$! child=$pid
    echo "process pid is $pid"
  fi
  echo "$pid" >"$pid_file"
  read -r host port < <(endpoint)
  for _ in $(seq 70); do
    sleep 0.2
    alive "$child" || break
    # Whoever answers may be another process that has the port; then this one ends.
    if answers "$host" "$port" 2>/dev/null && sleep 0.5 && alive "$child"; then
      echo "Start $component success"
      exit 0
    fi
  done
  alive "$pid" || rm -f "$pid_file"
  echo "${red}Start $component failed! Please check log in $root/$log ${reset}"
}

# Ends a process and waits for that.
end() {
  kill "$1" 2>/dev/null
  for _ in $(seq 600); do
    alive "$1" || return 0
    sleep 0.1
  done
  echo "${red}$component (process $1) has been told to end, and still runs after a minute ${reset}"
  exit 1
}

stop() {
  local pid how=''
  echo "Stopping $component ... "
  if [ ! -f "$pid_file" ]; then
    echo "no $component to stop (could not find file ./$pid_file)"
  else
    [ -f "$pid_file.child" ] && how='(mon mode)'
    pid=$(read_pid "$pid_file")
    alive "$pid" && end "$pid"
    rm -f "$pid_file"
  fi
  if [ -f "$pid_file.child" ]; then
    how='(mon mode)'
    pid=$(read_pid "$pid_file.child")
    if alive "$pid"; then
      echo "After mon stopped, component is still alive, kill it"
      end "$pid"
    fi
    rm -f "$pid_file.child"
  fi
  echo "Stop $component success$how"
}

case $op in
start) start ;;
stop) stop ;;
restart) stop && start ;;
run) run ;;         # the daemon's and the monitor's own processes, from `start`
monitor) monitor ;;
*) echo "Only support {start|stop|restart}" >&2 ;;
esac
exit 0
