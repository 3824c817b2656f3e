"""`verify`: the audit of a destination finds whatever is missing or wrong there, and nothing else. On a real HDFS and
on file://."""

import json
import os
import pathlib
import re
import threading
import time
import urllib.parse

import pytest

from openmldb import fields
from system import System, wait_for

CONF = {"syncd": {"roll.interval": "50ms"}}
LABEL = "user.osync.label"
N, ROWS = 4, 8  # field numbers of a label


class Local:
    """The files of a destination, changed behind everybody's back."""

    def __init__(self, system, dest):
        self.folder = system.folder / "out" / dest

    def read(self, name):
        return (self.folder / name).read_bytes()

    def write(self, name, data, label=None):
        (self.folder / name).unlink(missing_ok=True)  # else the new file would have the former one's label
        (self.folder / name).write_bytes(data)
        if label is not None:
            os.setxattr(self.folder / name, LABEL, label)

    def truncate(self, name, length):
        os.truncate(self.folder / name, length)

    def remove(self, name):
        (self.folder / name).unlink()

    def label(self, name):
        return os.getxattr(self.folder / name, LABEL)


class Remote:
    """The same on HDFS."""

    def __init__(self, system, dest):
        self.hdfs, self.folder = system.hdfs, system.dest(dest)

    def path(self, name):
        return f"{self.folder}/{name}"

    def read(self, name):
        return self.hdfs.read(self.path(name))

    def write(self, name, data, label=None):
        self.hdfs.write(self.path(name), data)
        if label is not None:
            value = {"xattr.name": LABEL, "xattr.value": "0x" + label.hex(), "flag": "CREATE,REPLACE"}
            self.hdfs._call("PUT", self.path(name), "SETXATTR", **value)

    def truncate(self, name, length):
        self.hdfs._call("POST", self.path(name), "TRUNCATE", newlength=str(length))
        wait_for("the truncated length", lambda: self.hdfs.status(self.path(name))["length"] == length)

    def remove(self, name):
        assert self.hdfs.delete(self.path(name))

    def label(self, name):
        answer = json.loads(self.hdfs._call("GET", self.path(name), "GETXATTRS", encoding="HEX"))
        return bytes.fromhex(next(a["value"] for a in answer["XAttrs"] if a["name"] == LABEL)[2:])


def varint(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def changed(label, number, value):
    """The label with another value in one of its fields. Its first byte counts the attributes that it is kept in."""
    message = fields(label[1:]) | {number: [value]}
    out = label[:1]
    for n, values in message.items():
        for v in values:
            out += varint(n << 3) + varint(v) if isinstance(v, int) else varint(n << 3 | 2) + varint(len(v)) + v
    return out


def base_names(s, dest="t"):
    return sorted(os.path.basename(name) for name in s.files(dest))


@pytest.fixture(params=["hdfs", "file"])
def system(request, build, tmp_path, zookeeper):
    hdfs = request.getfixturevalue("hdfs") if request.param == "hdfs" else None
    with System(build, tmp_path, zookeeper, hdfs, CONF) as s:
        yield s


def place(s, dest="t"):
    return Remote(s, dest) if s.hdfs else Local(s, dest)


def verify(s, name="t", **more):
    return s.rpc("VerifySyncTask", db="db", name=name, **more)


def text(answer):
    return "\n".join([*answer["report"], answer["response"].get("msg", "")])


def expect_fine(s, **more):
    answer = verify(s, **more)
    assert answer["response"]["code"] == 0 and int(answer.get("holes", 0)) == 0, text(answer)
    return answer


def expect_wrong(s, *says, holes=0, wrong=0, **more):
    answer = verify(s, **more)
    assert answer["response"]["code"] == -1, text(answer)
    assert int(answer.get("holes", 0)) == holes, text(answer)
    assert f"{holes} files are missing, {wrong} are wrong" in answer["response"]["msg"], text(answer)
    for part in says:
        assert part in text(answer), text(answer)
    return answer


def fill(s, files=6):
    """Files of both partitions; (their names in order, a list a partition)."""
    s.make_table(1, "t")
    ids = s.fill(1, 400)
    s.start()
    s.create("t", 2)
    n = 400

    def partitions():
        found = {}
        for name in base_names(s):
            found.setdefault(name.split("-")[-2], []).append(name)
        return found

    while len(partitions()) < 2 or min(map(len, partitions().values())) < files:
        s.tablet.generate(1, 40, first_id=n)
        n += 40
        s.wait_rows("t", n)
    s.audit("t", range(n))
    assert len(ids) == 400
    return n, list(partitions().values())


def test_finds_what_is_wrong(system, numbers):
    s = system
    n, (names, others) = fill(s)
    p = place(s)
    answer = expect_fine(s)
    assert int(answer["files"]) == len(names) + len(others) == len(base_names(s))
    assert int(answer["rows"]) == n
    assert int(answer["bytes"]) == sum(map(len, s.files("t").values()))
    assert expect_fine(s, quick=True)["rows"] == str(n)
    assert expect_fine(s, dest=s.dest("t"))["files"] == answer["files"]
    assert s.helper("verify", "-t", "db.t", "-d", s.dest("t")).count("nothing is missing") == 2

    victim, content, label = names[3], p.read(names[3]), p.label(names[3])
    rows = content.count(b"\n")

    p.remove(victim)
    expect_wrong(s, f"hole: {victim} is missing, with {rows} rows", holes=1)
    expect_wrong(s, victim, holes=1, quick=True)
    assert f"hole: {victim}" in s.helper("verify", "-t", "db.t", "-d", s.dest("t"), status=1)

    p.write(victim, content, label)
    expect_fine(s)
    found = 0

    p.truncate(victim, len(content) - 5)
    expect_wrong(s, f"wrong: {victim} has {len(content) - 5} bytes", "ends in the middle of a row", wrong=1)
    expect_wrong(s, f"wrong: {victim} has {len(content) - 5} bytes", wrong=1, quick=True)
    found += 1

    fewer = b"".join(content.splitlines(keepends=True)[:-1])
    p.write(victim, fewer, label)
    expect_wrong(s, f"wrong: {victim} has {rows - 1} rows, and its label says {rows}", wrong=1)
    found += 1

    p.write(victim, content)  # without its label, as a copy by `hdfs dfs -cp` would be
    expect_wrong(s, f"wrong: {victim} has no label", wrong=1)
    found += 1

    p.write(victim, content, changed(label, ROWS, rows + 1))
    expect_wrong(s, f"wrong: {victim} has {rows} rows, and its label says {rows + 1}", wrong=1)
    p.write(victim, content, changed(label, N, 4))
    expect_wrong(s, f"wrong: {victim} has the label of {names[4]}", wrong=1)
    p.write(victim, content, b"\x01" + os.urandom(50))
    expect_wrong(s, f"wrong: {victim} has a label that isn't one of libosync", wrong=1)
    found += 3

    p.write(victim, p.read(names[4]), changed(p.label(names[4]), N, 3))  # another one in its place
    expect_wrong(s, f"wrong: {victim}", wrong=2)
    p.write(victim, content, label)
    expect_fine(s)
    found += 1

    foreign = "part-00000000-1111-4222-8333-444444444444-00000-0000000000.csv"
    p.write(foreign, b"1,2,3\n")
    p.write(f"{victim}.copy", content)
    p.write("notes.txt", b"?")
    expect_wrong(s, f"wrong: {foreign} has no label", f"wrong: {victim}.copy", "notes.txt is not a file", wrong=2)
    for name in (foreign, f"{victim}.copy", "notes.txt"):
        p.remove(name)
    found += 2

    newest, content, label = names[-1], p.read(names[-1]), p.label(names[-1])
    p.remove(newest)
    expect_wrong(s, f"hole: {newest} is missing: the checkpoint says", holes=1)
    p.write(newest, content, label)
    expect_fine(s)
    found += 1

    for name in names[:2]:  # a consumer has taken the oldest ones
        p.remove(name)
    assert "partition 0: files 2 to" in (report := text(expect_fine(s))), report
    assert "2 older ones were removed by a consumer" in report, report
    numbers.add("damages found by verify", found + 1)


def test_while_rows_come_and_a_consumer_takes_them(system):
    """Neither files that are committed meanwhile nor files that are taken away meanwhile are an alarm."""
    s = system
    n, _ = fill(s, 3)
    p, stop, taken = place(s), threading.Event(), []

    def consume():
        while not stop.is_set():
            oldest = {}
            for name in base_names(s):
                oldest.setdefault(name.split("-")[-2], []).append(name)
            for names in oldest.values():
                if len(names) > 3:
                    p.remove(names[0])
                    taken.append(names[0])
            time.sleep(0.05)

    consumer = threading.Thread(target=consume)
    consumer.start()
    try:
        audits = 0
        while audits < 12 or len(taken) < 6:
            s.tablet.generate(1, 200, first_id=n)
            n += 200
            expect_fine(s, quick=bool(audits % 2))
            audits += 1
            assert audits < 300
    finally:
        stop.set()
        consumer.join()
    s.wait_rows("t", n)
    expect_fine(s)


def test_a_task_that_is_over(system):
    s = system
    s.make_table(1, "t")
    s.fill(1, 3000)
    s.start()
    answer = verify(s)
    assert answer["response"]["code"] == -1 and "no sync task of db.t" in answer["response"]["msg"]
    answer = verify(s, dest=s.dest("t"))
    assert answer["response"]["code"] == -1 and "holds no file of this table" in answer["response"]["msg"]
    s.create("t", 0)
    s.wait_gone()
    answer = expect_fine(s, dest=s.dest("t"))
    assert answer["rows"] == "3000", text(answer)
    # A second full copy beside it isn't wrong, but worth a word.
    s.create("t", 0)
    s.wait_gone()
    answer = expect_fine(s, dest=s.dest("t"))
    assert answer["rows"] == "6000", text(answer)
    assert "rows may be in the files of both" in text(answer)
    # What is left of a task that nobody has is named, and no hole.
    left = "99999999-1111-4222-8333-444444444444"
    if s.hdfs:
        s.hdfs.mkdirs(f"{s.dest('t')}/_osync/{left}")
    else:
        pathlib.Path(s.folder, "out", "t", "_osync", left).mkdir(parents=True)
    assert f"_osync/{left}" in text(expect_fine(s, dest=s.dest("t")))
    # Another table's files in the same folder are not this one's.
    s.make_table(2, "u")
    s.tablet.generate(2, 100)
    s.create("u", 2, dest="t")
    wait_for("the rows of u", lambda: s.rpc("TaskStatus").get("task") and len(s.lines("t")) == 6100)
    answer = expect_fine(s, dest=s.dest("t"))
    assert answer["rows"] == "6000" and "files are of other tables" in text(answer)
    assert expect_fine(s, name="u")["rows"] == "100"


def test_an_audit_holds_up_nobody(build, tmp_path, zookeeper, hdfs):
    """A NameNode that doesn't answer in the middle of an audit: others are served, and the end comes at once."""
    with System(build, tmp_path, zookeeper, hdfs, CONF) as s:
        fill(s, 3)
        answers = []

        def ask():
            try:
                answers.append(verify(s))
            except OSError as e:
                answers.append(e)

        hdfs.pause_namenode()
        try:
            threads = [threading.Thread(target=ask) for _ in range(6)]
            for t in threads:
                t.start()
            wait_for("the answers to those who are too many", lambda: len(answers) == 2)
            assert all("too many audits" in a["response"]["msg"] for a in answers)
            assert s.tasks()
            before = time.monotonic()
            assert s.syncd.end() == 0
            assert time.monotonic() - before < 20
        finally:
            hdfs.resume_namenode()
        for t in threads:
            t.join()
        s.syncd.start()
        s.wait_listening()
        wait_for("its stored tasks", lambda: s.page()["ready"])
        expect_fine(s)


def test_names_that_need_encoding(system):
    """The content is read from wherever the rows went."""
    s = system
    s.make_table(1, "t")
    s.tablet.generate(1, 100)
    s.start()
    dest = "a b%/ö +&=;?'x"
    s.create("t", 2, dest=dest)
    wait_for("the rows", lambda: sum(data.count(b"\n") for data in s.files(dest).values()) == 100)
    answer = expect_fine(s)
    assert answer["rows"] == "100"
    assert re.search(r"0 are wrong$", answer["report"][-1]), text(answer)
    assert urllib.parse.quote(dest) != dest
