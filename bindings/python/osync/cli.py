"""The command `osync`: sync tasks on a scheduler, and the rows of a table's files. For people it prints tables and one
sentence for what went wrong, for machines (--json) what the scheduler has answered."""

from __future__ import annotations

import argparse
import configparser
import datetime
import json
import os
import shutil
import sys
import time
from typing import Any, Callable, Iterable, Optional, Sequence

from . import completion as completions
from ._native import lib
from .client import MODES, Client, Task, fraction
from .errors import OsyncError
from .table import read_table

DEFAULT_SCHEDULER = "127.0.0.1:8848"
MODE_NAMES = {number: name for name, number in MODES.items()}
MIN_WIDTH = 8  # of what is cut


class CommandError(Exception):
    """What is wrong, in one sentence for the user."""


# ---- what is printed ----


def age_text(ms: Optional[int]) -> str:
    if not ms:
        return "-"
    seconds = max(0, int(time.time() - ms / 1000))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


def clean(value: Any) -> str:
    """Text of the scheduler's, or of a file's, that can't disturb a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Any]], right: Iterable[str] = ()) -> None:
    """Columns in line. On a terminal the widest texts are cut, so that a row stays in its line; numbers never are."""
    texts = [[clean(v) for v in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(headers), *texts]) for i in range(len(headers))]
    right = set(right)
    cut = [i for i, header in enumerate(headers) if header not in right]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - 2 * (len(headers) - 1)
        while sum(widths) > room and max(widths[i] for i in cut) > MIN_WIDTH:
            widths[max(cut, key=lambda i: widths[i])] -= 1
    for line in [list(headers), *texts]:
        cells = []
        for text, width, header in zip(line, widths, headers):
            if len(text) > width:
                text = text[: width - 1] + "~"
            cells.append(text.rjust(width) if header in right else text.ljust(width))
        print("  ".join(cells).rstrip())


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def doing(task: Task) -> str:
    """How much of a full pass is done, or what its partitions are at."""
    phases = {p["phase"] for p in task["partitions"] if p["phase"]}
    if "traversing" in phases and all(p["snapshot_rows"] for p in task["partitions"]):
        return f"{fraction(task):.0%}"
    return ", ".join(sorted(phases)) or "-"


def counted(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(f"{names.count(n)} {n}" for n in sorted(set(names)))


# ---- the commands ----


def table_of(args: argparse.Namespace) -> str:
    parts = args.table.split(".")
    if len(parts) != 2 or not all(parts):
        raise CommandError(f"the table is named as DB.TABLE, not '{args.table}'")
    return str(args.table)


def client_of(args: argparse.Namespace) -> Client:
    return Client(args.scheduler, timeout=args.timeout)


def say(args: argparse.Namespace, answer: Any, done: str = "") -> int:
    """What the scheduler has done: its answer, or a sentence and what it has to say."""
    if args.json:
        print_json(answer)
        return 0
    if done:
        print(done)
    if answer.get("msg"):
        print(clean(answer["msg"]))
    return 0


def read_points(path: str) -> str:
    """What `points` printed."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        json.loads(text)
    except ValueError as e:
        raise CommandError(f"{path}: it isn't what `osync points` prints: {e}") from e
    return text


def create(args: argparse.Namespace) -> int:
    table, mode = table_of(args), MODES.get(args.mode, args.mode)
    if args.start_ts is not None and mode != 1:
        raise CommandError("--start-ts needs --mode incremental")
    if args.task and args.start != "continue":
        raise CommandError("--task needs --continue")
    if args.wait and mode != 0:
        raise CommandError("--wait needs --mode full: the others don't end")
    with client_of(args) as client:
        answer = client.create(
            table,
            args.dest,
            mode=mode,
            start_ts=args.start_ts or 0,
            start="points" if args.points else args.start or "default",
            task_id=args.task,
            points=read_points(args.points) if args.points else None,
        )
        if not args.json:
            say(args, answer, f"{table}: the task is created")
        if args.wait:
            client.wait(table, progress=not args.json)
    if args.json:
        print_json(answer)
    return 0


def delete(args: argparse.Namespace) -> int:
    table = table_of(args)
    with client_of(args) as client:
        return say(args, client.delete(table), f"{table}: the task is deleted; committed files stay")


def retry(args: argparse.Namespace) -> int:
    table = table_of(args)
    with client_of(args) as client:
        return say(args, client.retry(table))


def recover(args: argparse.Namespace) -> int:
    table = table_of(args)
    with client_of(args) as client:
        answer = client.recover(table, args.dest, task_id=args.task, start_over=args.start_over)
        return say(args, answer, f"{table}: the task goes on where its files end")


def verify(args: argparse.Namespace) -> int:
    table = table_of(args)
    with client_of(args) as client:
        answer = client.verify(table, args.dest, quick=args.quick)
    if args.json:
        print_json(answer)
    else:
        for line in answer.get("report", []):
            print(clean(line))
        if answer.get("response", {}).get("msg"):
            print(clean(answer["response"]["msg"]))
    return 0 if answer.get("response", {}).get("code", 0) == 0 else 1


def points(args: argparse.Namespace) -> int:
    with client_of(args) as client:
        print_json(client.points(table_of(args)))
    return 0


def show_partitions(task: Task) -> None:
    print_table(
        ["PID", "STATUS", "DOING", "ROWS", "STAGED", "FILES", "COLLECTOR", "SEEN"],
        [
            [
                p["pid"],
                p["status"],
                doing({**task, "partitions": [p]}),
                p["rows"],
                p["staged_rows"],
                p["files"],
                p.get("collector") or "-",
                age_text(p.get("last_update_ms")),
            ]
            for p in task["partitions"]
        ],
        right=["PID", "ROWS", "STAGED", "FILES"],
    )


def show_reasons(tasks: Sequence[Task]) -> None:
    for task in tasks:
        for p in task["partitions"]:
            if p.get("reason"):
                print(f"{clean(task['db'])}.{clean(task['table'])} partition {p['pid']}: {clean(p['reason'])}")


def status(args: argparse.Namespace) -> int:
    wanted = table_of(args) if args.table else None
    with client_of(args) as client:
        page = client.status()
    tasks = [t for t in page["tasks"] if wanted in (None, f"{t['db']}.{t['table']}")]
    if wanted and not tasks:
        raise CommandError(f"{wanted} has no sync task on {args.scheduler}")
    if args.names:
        for task in tasks:
            print(f"{clean(task['db'])}.{clean(task['table'])}")
        return 0
    if args.json:
        print_json({**page, "tasks": tasks})
        return 0
    if not page["ready"]:
        print("the scheduler is starting, and doesn't know its tasks yet")
    if not tasks:
        print("no sync task")
    elif wanted:
        for task in tasks:
            print(
                f"{wanted}: {MODE_NAMES.get(task['mode'], task['mode'])}, {task['state']}, to {clean(task['dest'])}"
            )
            print(f"task {task['task_id']}")
            show_partitions(task)
    else:
        print_table(
            ["TABLE", "MODE", "STATUS", "DOING", "ROWS", "FILES", "DESTINATION"],
            [
                [
                    f"{t['db']}.{t['table']}",
                    MODE_NAMES.get(t["mode"], t["mode"]),
                    counted(p["status"] for p in t["partitions"]) if t["state"] == "active" else t["state"],
                    doing(t),
                    sum(p["rows"] for p in t["partitions"]),
                    sum(p["files"] for p in t["partitions"]),
                    t["dest"],
                ]
                for t in tasks
            ],
            right=["ROWS", "FILES"],
        )
    show_reasons(tasks)
    for folder in page.get("not_taken_over", []):
        print(f"{clean(folder['folder'])}: not taken over yet: {clean(folder['reason'])}")
    return 0


def collectors(args: argparse.Namespace) -> int:
    with client_of(args) as client:
        answer = client.collectors()
    if args.json:
        print_json(answer)
        return 0
    found = answer.get("collectors", [])
    if not found:
        print("no collector")
        return 0
    registered = {True: "yes", False: "no", None: "not known"}
    print_table(
        ["COLLECTOR", "KIND", "REGISTERED", "SEEN", "HAS", "KEEPS THE LOG OF"],
        [
            [
                c.get("endpoint", "-"),
                c.get("kind", "-"),
                registered[c.get("registered")],
                age_text(int(c.get("lastSeen") or 0)),
                " ".join(c.get("tasks", [])) or "-",
                " ".join(c.get("holds", [])) or "-",
            ]
            for c in found
        ],
    )
    return 0


def wait(args: argparse.Namespace) -> int:
    table = table_of(args)
    with client_of(args) as client:
        page = client.status()
        there = not page["ready"] or any(table == f"{t['db']}.{t['table']}" for t in page["tasks"])
        if there:
            client.wait(table, progress=not args.json)
    if args.json:
        print_json({"table": table, "done": True})
    elif not there:
        print(f"{table} has no sync task, as after a full sync that is done")
    return 0


def json_value(value: Any) -> Any:
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return str(value)
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    return value


def dump(args: argparse.Namespace) -> int:
    try:
        reader = read_table(
            args.folders,
            meta=args.meta,
            phase=args.phase,
            base=args.base,
            timezone=args.timezone,
            start_ts=args.start_ts or 0,
            from_=args.from_ or 0,
            scratch=args.scratch,
        )
    except ValueError as e:
        raise CommandError(str(e)) from e
    with reader:
        if args.json:
            names = [c.name for c in reader.columns]
            for row in reader:
                print(json.dumps(dict(zip(names, map(json_value, row)))))
        else:
            for lines in reader.csv():
                sys.stdout.buffer.write(lines)
    sys.stdout.flush()
    return 0


def tool_status(args: argparse.Namespace) -> int:
    """The scheduler's own files, without asking it: what synctool_helper.py tool-status shows."""
    parser = configparser.ConfigParser(interpolation=None)
    with open(args.conf, encoding="utf-8", errors="replace") as file:
        try:
            parser.read_string("[synctool]\n" + file.read())
        except configparser.Error as e:
            raise CommandError(f"{args.conf}: {e}") from e
    conf = dict(parser["synctool"])
    for key in ("server.host", "server.port", "sync_task.progress_path"):
        if key not in conf:
            raise CommandError(f"{args.conf}: the key {key} is missing")
    files = []
    for folder, _, names in os.walk(conf["sync_task.progress_path"]):
        files += [os.path.join(folder, name) for name in names]
    if args.json:
        print_json({"conf": conf, "files": sorted(files)})
        return 0
    print_table(["KEY", "VALUE"], sorted(conf.items()))
    print(f"\n{len(files)} files below {clean(conf['sync_task.progress_path'])}")
    for name in sorted(files):
        print(f"  {clean(name)}")
    return 0


def completion(args: argparse.Namespace) -> int:
    print(completions.script(args.shell, make_parser()), end="")
    return 0


# ---- the command line ----


def natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("it can't be negative")
    return number


def mode_of(text: str) -> str:
    """Also by its number, as in synctool_helper.py."""
    return MODE_NAMES.get(int(text), text) if text.isdigit() else text


def make_parser() -> argparse.ArgumentParser:
    def common(default: Callable[[Any], Any]) -> argparse.ArgumentParser:
        """Before the command and behind it; there they have no default, which would hide what stands before it."""
        parser = argparse.ArgumentParser(add_help=False)
        parser.add_argument(
            "-s",
            "--scheduler",
            metavar="HOST:PORT",
            default=default(os.environ.get("OSYNC_SCHEDULER") or DEFAULT_SCHEDULER),
            help=f"the scheduler (OSYNC_SCHEDULER, or {DEFAULT_SCHEDULER})",
        )
        parser.add_argument(
            "--timeout", metavar="SECONDS", type=float, default=default(120.0), help="of an answer (120)"
        )
        parser.add_argument("--json", action="store_true", default=default(False), help="print JSON, for programs")
        return parser

    parser = argparse.ArgumentParser(
        prog="osync",
        description="Sync tasks that copy OpenMLDB's tables to HDFS, and the rows of a table's files.",
        epilog="Exit status: 0; 1 with a message on standard error; 2 for a wrong command line.",
        parents=[common(lambda value: value)],
    )
    parser.add_argument("--version", action="version", version=lib.osync_version().decode(), help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    behind = common(lambda _: argparse.SUPPRESS)

    def command(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", parents=[behind])
        sub.set_defaults(run=run)
        return sub

    def table(sub: argparse.ArgumentParser, **more: Any) -> None:
        sub.add_argument("table", metavar="DB.TABLE", help="the table", **more)

    def dest(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "dest", metavar="DEST", help="hdfs://[namenode]/path, webhdfs://host:port/path, file:///path"
        )

    def task(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--task", metavar="ID", help="the earlier task, if DEST holds files of several")

    sub = command("create", create, "create a sync task")
    table(sub)
    dest(sub)
    sub.add_argument(
        "-m",
        "--mode",
        type=mode_of,
        choices=list(MODES),
        default="full",
        help="full: the table as it is; incremental: rows from --start-ts on, and those to come; continuous: the table "
        "as it is, and rows to come (full)",
    )
    sub.add_argument(
        "--start-ts", metavar="MS", type=natural, help="incremental: rows with at least this timestamp, milliseconds"
    )
    start = sub.add_argument_group("if DEST holds rows of the table already").add_mutually_exclusive_group()
    for name, help in (
        ("append", "all rows are written beside them"),
        ("restart", "they are removed first"),
        ("continue", "goes on where they end, under the earlier task's id"),
    ):
        start.add_argument(f"--{name}", dest="start", action="store_const", const=name, help=help)
    start.add_argument("--points", metavar="FILE", help="a new task that begins at what `osync points` printed")
    task(sub)
    sub.add_argument("--wait", action="store_true", help="wait until it is done, as `osync wait`")

    table(command("delete", delete, "end a sync task; its files stay"))
    sub = command("status", status, "show what every task is doing, or each partition of one")
    table(sub, nargs="?")
    sub.add_argument("--names", action="store_true", help="only the tables' names")
    table(command("wait", wait, "wait until a full sync is done, and show how far it is"))
    command("collectors", collectors, "show the collectors, what each has, and when it was last heard of")
    table(command("retry", retry, "start what is FAILED again, from its committed point"))
    sub = command("verify", verify, "look whether a file of a destination is missing, or isn't what its label says")
    table(sub)
    dest(sub)
    sub.add_argument("--quick", action="store_true", help="without reading the rows")
    sub = command("recover", recover, "take a task up whose checkpoint is lost, from its files")
    table(sub)
    dest(sub)
    task(sub)
    sub.add_argument("--start-over", action="store_true", help="a partition without any file begins anew")
    table(command("points", points, "print a task's committed points, for `create --points`"))

    sub = command("dump", dump, "print the rows of a table's files, as CSV or with --json as a JSON object a line")
    sub.add_argument("folders", metavar="FOLDER", nargs="+", help="of a partition, or one that has folders TID_PID")
    sub.add_argument("--meta", metavar="FILE", help="the table's serialized TableMeta; default: what is found there")
    sub.add_argument("--phase", choices=["all", "snapshot", "binlog"], default="all", help="what is read (all)")
    sub.add_argument(
        "--base", choices=["auto", "oldest"], default="auto", help="oldest: trust that the log precedes the snapshot"
    )
    sub.add_argument("--from", dest="from_", metavar="N", type=natural, help="binlog: first log index")
    sub.add_argument("--start-ts", metavar="MS", type=natural, help="only rows with at least this timestamp")
    sub.add_argument("--timezone", metavar="ZONE", default="UTC", help="of timestamps (UTC)")
    sub.add_argument("--scratch", metavar="FOLDER", help="where a temporary database is made")

    sub = command("tool-status", tool_status, "show the scheduler's configuration and its files, without asking it")
    sub.add_argument(
        "-f",
        "--conf",
        metavar="FILE",
        default="conf/synctool.properties",
        help="its configuration (conf/synctool.properties)",
    )
    sub = command("completion", completion, "print a shell's completion script")
    sub.add_argument("shell", metavar="SHELL", choices=["bash", "zsh", "fish"], help="bash, zsh or fish")
    return parser


def drop_output() -> None:
    """What isn't written yet: else the interpreter would try once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = make_parser().parse_args(argv)
    try:
        return int(args.run(args))
    except BrokenPipeError:  # whoever reads it has seen enough
        drop_output()
        return 1
    except (CommandError, OsyncError) as e:
        answer = getattr(e, "answer", None)
        if args.json and answer:
            print_json(answer)
        message = str(e)
    except OSError as e:
        message = f"{e.filename}: {e.strerror}" if e.filename else str(e)
    except KeyboardInterrupt:
        drop_output()
        return 130
    print(f"osync: {clean(message)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
