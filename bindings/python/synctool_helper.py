#!/usr/bin/env python3
"""Creates, deletes and shows sync tasks: OpenMLDB's synctool_helper.py for osync-syncd (or OpenMLDB's own SyncTool).

The same options and the same output. Unlike the original, a request that the server refuses ends with exit status 1,
`create` without -m means mode 0 (full), and tool-status needs no key that the shipped configuration doesn't have.
Only osync-syncd knows retry, recover, verify, points and collectors, and create's --append, --restart, --continue and
--points.
"""

import argparse
import configparser
import datetime
import json
import os
import sys
import urllib.error
import urllib.request

SERVICE = "openmldb.datasync.SyncTool"
TIMEOUT_S = 120
LONG_TIMEOUT_S = 24 * 3600  # of what looks through many files


class HelperError(Exception):
    """What went wrong, in one sentence for the user."""


def fetch(server, request, timeout=TIMEOUT_S):
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as e:
        raise HelperError(f"{server} answered {e.code}: {e.read().decode(errors='replace').strip()}") from e
    except (OSError, ValueError) as e:
        raise HelperError(f"can't reach the sync tool at {server}: {e}") from e


def call(server, method, message, timeout=TIMEOUT_S):
    """Posts a request as JSON; returns the body of the answer as text."""
    request = urllib.request.Request(
        f"http://{server}/{SERVICE}/{method}",
        data=json.dumps(message).encode(),
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    return fetch(server, request, timeout)


def parse(body):
    try:
        return json.loads(body)
    except ValueError as e:
        raise HelperError(f"the answer isn't JSON: {body!r}") from e


def print_answer(body):
    """Prints an answer that is a code and a message; returns the exit status."""
    print(body)
    return 0 if parse(body).get("code", 0) == 0 else 1


def table_parts(table):
    parts = (table or "").split(".")
    if len(parts) != 2 or not all(parts):
        raise HelperError(f"the table is given as -t db.table, not {table!r}")
    return parts


def destination(args):
    if not args.dest:
        raise HelperError("the destination is missing: -d PATH")
    return args.dest


def read_points(path):
    """What `points` printed, as CreateSyncTask takes it."""
    try:
        with open(path, encoding="utf-8") as f:
            points = json.load(f)
        return [{k: p[k] for k in ("pid", "point", "exact") if k in p} for p in points]
    except (OSError, ValueError, TypeError) as e:
        raise HelperError(f"{path}: {e}") from e


def create(args):
    db, name = table_parts(args.table)
    mode = args.mode or 0
    message = {
        "db": db,
        "name": name,
        "mode": mode,
        "start_ts": args.ts if mode == 1 else 0,
        "dest": destination(args),
    }
    if args.start:
        message["start"] = args.start
    if args.points:
        message |= {"start": "kStartAtPoints", "points": read_points(args.points)}
    if args.task:
        message["task_id"] = args.task
    return print_answer(call(args.server, "CreateSyncTask", message, LONG_TIMEOUT_S if args.start else TIMEOUT_S))


def recover(args):
    db, name = table_parts(args.table)
    message = {"db": db, "name": name, "dest": destination(args)}
    if args.task:
        message["task_id"] = args.task
    if args.start_over:
        message["start_over"] = True
    return print_answer(call(args.server, "RecoverSyncTask", message, LONG_TIMEOUT_S))


def retry(args):
    db, name = table_parts(args.table)
    return print_answer(call(args.server, "RetrySyncTask", {"db": db, "name": name}))


def verify(args):
    db, name = table_parts(args.table)
    message = {"db": db, "name": name, "dest": destination(args)}
    if args.quick:
        message["quick"] = True
    answer = parse(call(args.server, "VerifySyncTask", message, LONG_TIMEOUT_S))
    for line in answer.get("report", []):
        print(line)
    response = answer.get("response", {})
    if response.get("msg"):
        print(response["msg"])
    return 0 if response.get("code") == 0 else 1


def points(args):
    """The committed points of a table's task: where another task can begin."""
    db, name = table_parts(args.table)
    page = parse(fetch(args.server, f"http://{args.server}/status?format=json"))
    tids = [t["tid"] for t in page.get("tasks", []) if (t["db"], t["table"]) == (db, name)]
    answer = parse(call(args.server, "TaskStatus", {"points": True}))
    out = []
    for task, exact in zip(answer.get("task", []), answer.get("points", [])):
        progress = task["progress"]
        if progress["tid"] in tids:
            if not exact:
                raise HelperError(f"the committed point of partition {progress['pid']} isn't known yet")
            out.append({"pid": progress["pid"], "point": progress.get("syncPoint", {}), "exact": exact})
    if not out:
        raise HelperError(f"table {db}.{name} has no sync task")
    print(json.dumps(sorted(out, key=lambda p: p["pid"]), indent=2))
    return 0


def delete(args):
    db, name = table_parts(args.table)
    return print_answer(call(args.server, "DeleteSyncTask", {"db": db, "name": name}))


def describe(readable, task):
    """One task as one flat dict, in the order: readable items, progress, the rest."""
    info = dict(item.split("=", 1) for item in readable.split(";"))
    if "lastUpdateTime" in info:
        info["lastUpdateTime"] = str(datetime.datetime.fromtimestamp(int(info["lastUpdateTime"]) / 1000))
    info.update(task["progress"])
    info.update({k: v for k, v in task.items() if k != "progress"})
    return info


def print_scope(tasks):
    """The overview by table."""
    tables = {}
    for task in tasks:
        tables.setdefault(task["tid"], {})[task["pid"]] = task
    failed = {task["tid"] for task in tasks if task["status"] == "FAILED"}
    print("table scope")
    print("running tasks:")
    for tid, parts in tables.items():
        if tid not in failed:
            print(f"tid {tid} task is running, pid parts: {parts.keys()}")
    if not failed:
        print("all tasks are running")
        return
    print(f"tasks contains failed part: {failed}")
    for tid in failed:
        print(f"tid: {tid}")
        for part in tables[tid].values():
            if part["status"] == "FAILED":
                print(f"failed part: {part}")


def status(args):
    answer = parse(call(args.server, "TaskStatus", {}))
    response = answer.get("response", {})
    if response.get("code") != 0:
        raise HelperError(f"the sync tool answered {answer}")
    readable = answer.get("readableInfo") or answer.get("readable_info")
    if not readable:
        print("no task")
        return 0
    tasks = [describe(r, t) for r, t in zip(readable, answer["task"])]
    print(f"{len(tasks)} tasks(tid-pid)")
    for task in tasks:
        print(task)
    print_scope(tasks)
    return 0


def collectors(args):
    """Each collector as one dict; one without tasks stands by."""
    answer = parse(call(args.server, "Collectors", {}))
    found = answer.get("collectors", [])
    print(f"{len(found)} collectors")
    for info in found:
        info |= {"tasks": info.pop("tasks", []), "holds": info.pop("holds", [])}  # last, and always there
        if "lastSeen" in info:
            info["lastSeen"] = str(datetime.datetime.fromtimestamp(int(info["lastSeen"]) / 1000))
        print(info)
    response = answer.get("response", {})
    if response.get("msg"):
        print(response["msg"])
    return 0 if response.get("code") == 0 else 1


def tool_status(args):
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with open(args.synctool_conf, encoding="utf-8") as f:
            parser.read_string("[dummy]\n" + f.read())
    except (OSError, configparser.Error) as e:
        raise HelperError(f"{args.synctool_conf}: {e}") from e
    conf = dict(parser["dummy"])
    print(conf)
    for key in ("server.host", "server.port", "sync_task.progress_path"):
        if key not in conf:
            raise HelperError(f"{args.synctool_conf}: the key {key} is missing")
    print("sync task progress in sync tool fs")
    for folder, _, names in os.walk(conf["sync_task.progress_path"]):
        for name in names:
            print(os.path.join(folder, name))
    return 0


ACTIONS = {
    "create": create,
    "delete": delete,
    "status": status,
    "tool-status": tool_status,
    "retry": retry,
    "recover": recover,
    "verify": verify,
    "points": points,
    "collectors": collectors,
}


def main(argv=None):
    parser = argparse.ArgumentParser(description="Creates, deletes and shows sync tasks.")
    parser.add_argument("action", help=", ".join(ACTIONS))
    parser.add_argument("-t", "--table", help="db.table")
    parser.add_argument(
        "-m",
        "--mode",
        type=int,
        choices=(0, 1, 2),
        help="0: full (default), 1: incremental by timestamp, 2: full and continuous",
    )
    parser.add_argument("-ts", type=int, default=0, help="mode 1: only rows with at least this timestamp (ms)")
    parser.add_argument("-d", "--dest", help="destination folder")
    parser.add_argument("-s", "--server", default="127.0.0.1:8848", help="host:port of the sync tool (%(default)s)")
    parser.add_argument(
        "-f",
        "--synctool_conf",
        default="conf/synctool.properties",
        help="configuration file for tool-status (%(default)s)",
    )
    begin = parser.add_argument_group("create, if the destination holds rows of the table already")
    begin = begin.add_mutually_exclusive_group()
    begin.add_argument(
        "--append", dest="start", action="store_const", const="kStartAppend", help="all rows are written beside them"
    )
    begin.add_argument(
        "--restart", dest="start", action="store_const", const="kStartRestart", help="they are removed first"
    )
    begin.add_argument(
        "--continue",
        dest="start",
        action="store_const",
        const="kStartContinue",
        help="goes on where they end, under the earlier task's id",
    )
    begin.add_argument("--points", metavar="FILE", help="a new task that begins at what `points` printed")
    parser.add_argument(
        "--task", metavar="ID", help="create --continue, recover: the earlier task, if there are several"
    )
    parser.add_argument(
        "--start-over", action="store_true", help="recover: a partition without any file begins at the beginning"
    )
    parser.add_argument("--quick", action="store_true", help="verify: without reading the files' content")
    args = parser.parse_args(argv)
    action = ACTIONS.get(args.action)
    if not action:
        return 0
    try:
        return action(args)
    except HelperError as e:
        print(f"synctool_helper: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
