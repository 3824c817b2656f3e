"""Every call of the admin client (osync/client.h) against a real osync-syncd: the program client_exercise makes the
call, this looks at what came of it. And docs/configuration.md, which a program makes of the library's tables."""

import json
import pathlib
import re
import subprocess

from system import System, wait_for
from zookeeper import free_port

DOCS = pathlib.Path(__file__).parents[2] / "docs"


class Client:
    def __init__(self, build, port):
        self.program, self.scheduler = build / "tests/e2e/client_exercise", f"127.0.0.1:{port}"

    def __call__(self, *arguments):
        """(name of the code, message, answer or None)."""
        done = subprocess.run(
            [self.program, self.scheduler, *("-" if a is None else str(a) for a in arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        code, message, answer = done.stdout.split("\n", 2)
        return code, message, json.loads(answer) if answer.strip() else None

    def ok(self, *arguments):
        code, message, answer = self(*arguments)
        assert (code, message) == ("OSYNC_OK", ""), message
        return answer


def members(page):
    """The names of all members, at any depth."""
    if isinstance(page, dict):
        return set(page).union(*map(members, page.values()))
    return set().union(*map(members, page)) if isinstance(page, list) else set()


def test_every_call(build, zookeeper, tmp_path):
    with System(build, tmp_path, zookeeper) as s:
        s.start()
        client = Client(build, s.syncd_port)
        s.make_table(7, "t")
        put = s.fill(7, 500)
        dest = s.dest("t")

        code, message, answer = client("create", "db", "none", 2, None, dest)
        assert (code, message) == ("OSYNC_ERPC", answer["msg"])
        assert "db.none" in message and answer["code"] == -1
        assert client("points", "db", "t")[:2] == ("OSYNC_ENOENT", "table db.t has no sync task")
        assert client("retry", "db", "t")[0] == client("delete", "db", "none")[0] == "OSYNC_ERPC"

        assert client.ok("create", "db", "t", 2, None, dest)["code"] == 0
        assert client("create", "db", "t", 2, None, dest)[0] == "OSYNC_ERPC"  # there is one already
        s.wait_rows("t", 500)

        page = client.ok("status")
        assert page.keys() == s.page().keys()
        assert [(t["db"], t["table"], t["mode"], len(t["partitions"])) for t in page["tasks"]] == [("db", "t", 2, 2)]
        documented = set(re.findall(r"`(\w+)`", (DOCS / "formats.md").read_text()))
        assert not members(page) - documented
        status = client.ok("task-status")
        assert {t["progress"]["pid"] for t in status["task"]} == {0, 1} and len(status["readableInfo"]) == 2
        found = client.ok("collectors")["collectors"]
        assert [c["endpoint"] for c in found] == [s.collectors[0].endpoint]
        assert sorted(found[0]["tasks"]) == ["7-0", "7-1"]

        client.ok("retry", "db", "t")
        report = client.ok("verify", "db", "t", dest)
        assert report["rows"] == "500" and report["report"]
        assert client.ok("verify", "db", "t", dest, "quick")["rows"] == "500"

        points = client.ok("points", "db", "t")
        assert points == json.loads(s.helper("points", "-t", "db.t"))
        client.ok("delete", "db", "t")
        assert not s.page()["tasks"]

        more = s.fill(7, 100, first=500)
        client.ok("create", "db", "t", 2, None, s.dest("points"), 4, None, json.dumps(points))
        wait_for("the rows behind the points", lambda: len(s.lines("points")) == 100)
        assert s.audit("points", more) == (0, 0)
        client.ok("delete", "db", "t")
        client.ok("create", "db", "t", 2, None, dest, 3)  # goes on in the first destination
        s.wait_rows("t", 600)
        assert s.audit("t", [*put, *more]) == (0, 0)

        # A file that isn't what its label says: refused with the report.
        client.ok("delete", "db", "t")
        file = pathlib.Path(next(iter(s.files("t"))))
        file.write_bytes(file.read_bytes()[:-1])
        code, message, answer = client("verify", "db", "t", dest)
        assert code == "OSYNC_ERPC" and message == answer["response"]["msg"] and answer["report"]
        client.ok("create", "db", "t", 0, None, dest, 2)  # from the beginning, without the former files
        wait_for("all rows again", lambda: len(s.lines("t")) == 600)
        assert s.audit("t", [*put, *more]) == (0, 0)
        s.wait_gone()

        # Its record is lost: recover finds the files.
        client.ok("create", "db", "t", 2, None, s.dest("again"))
        s.wait_rows("again", 600)
        s.syncd.kill()
        for file in (tmp_path / "state").glob("checkpoint.db*"):
            file.unlink()
        s.start_syncd()
        s.wait_registered()
        client.ok("recover", "db", "t", s.dest("again"))
        s.tablet.generate(7, 10, first_id=600)
        wait_for("the later rows", lambda: len(s.lines("again")) == 610)
        assert s.audit("again", range(610)) == (0, 0)

        s.syncd.kill()
        code, message, answer = client("delete", "db", "t")
        assert code == "OSYNC_ECONN" and client.scheduler in message and answer is None
        s.start_syncd()


def test_nobody_is_there(build):
    code, message, answer = Client(build, free_port())("status")
    assert code == "OSYNC_ECONN" and "127.0.0.1" in message and answer is None


def test_the_configuration_is_documented(build):
    """The page is what the program makes of the tables: `configuration_doc > docs/configuration.md`."""
    program = build / "tests/e2e/configuration_doc"
    made = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert (DOCS / "configuration.md").read_text() == made, f"{program} > docs/configuration.md brings it up to date"
