"""Short runs of chaos.py, one with collectors that write staged files, one with rows that go by way of the scheduler;
tests/chaos.sh makes longer ones."""

import os

import pytest

from chaos import chaos

SECONDS = 60


@pytest.mark.parametrize("data_path", ["direct", "proxy"])
def test_chaos(data_path, build, tmp_path, hdfs, numbers):
    c = chaos(build, tmp_path, hdfs, int(os.environ.get("OSYNC_SEED", "1")), SECONDS, data_path=data_path)
    print(c.summary())
    for what, n in c.did.items():
        if what.startswith(("kills", "pauses", "leader moves", "planned")):
            numbers.add("chaos: " + what, n)
    numbers.audited(c.checked["rows"], c.checked["lost"], c.checked["twice"])
    assert not c.wrong
