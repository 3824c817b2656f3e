#!/usr/bin/env python3
"""Creates, deletes and shows sync tasks: OpenMLDB's synctool_helper.py for osync-syncd (or OpenMLDB's own SyncTool).

The same options and the same output. Unlike the original, a request that the server refuses ends with exit status 1,
`create` without -m means mode 0 (full), and tool-status needs no key that the shipped configuration doesn't have.
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


class HelperError(Exception):
    """What went wrong, in one sentence for the user."""


def call(server, method, message):
    """Posts a request as JSON; returns the body of the answer as text."""
    request = urllib.request.Request(
        f"http://{server}/{SERVICE}/{method}",
        data=json.dumps(message).encode(),
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=TIMEOUT_S) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as e:
        raise HelperError(f"{server} answered {e.code}: {e.read().decode(errors='replace').strip()}") from e
    except (OSError, ValueError) as e:
        raise HelperError(f"can't reach the sync tool at {server}: {e}") from e


def parse(body):
    try:
        return json.loads(body)
    except ValueError as e:
        raise HelperError(f"the answer isn't JSON: {body!r}") from e


def print_answer(body):
    """Prints the answer to create or delete; returns the exit status."""
    print(body)
    return 0 if parse(body).get("code", 0) == 0 else 1


def table_parts(table):
    parts = (table or "").split(".")
    if len(parts) != 2 or not all(parts):
        raise HelperError(f"the table is given as -t db.table, not {table!r}")
    return parts


def create(args):
    db, name = table_parts(args.table)
    if not args.dest:
        raise HelperError("the destination is missing: -d PATH")
    mode = args.mode or 0
    message = {"db": db, "name": name, "mode": mode, "start_ts": args.ts if mode == 1 else 0, "dest": args.dest}
    return print_answer(call(args.server, "CreateSyncTask", message))


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
    failed = {tid: [t for t in parts.values() if t["status"] == "FAILED"] for tid, parts in tables.items()}
    failed = {tid: parts for tid, parts in failed.items() if parts}
    print("table scope")
    print("running tasks:")
    for tid, parts in tables.items():
        if tid not in failed:
            print(f"tid {tid} task is running, pid parts: {parts.keys()}")
    if not failed:
        print("all tasks are running")
        return
    print(f"tasks contains failed part: {set(failed)}")
    for tid, parts in failed.items():
        print(f"tid: {tid}")
        for part in parts:
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


ACTIONS = {"create": create, "delete": delete, "status": status, "tool-status": tool_status}


def main(argv=None):
    parser = argparse.ArgumentParser(description="Creates, deletes and shows sync tasks.")
    parser.add_argument("action", help="create, delete, status or tool-status")
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
