"""A short run of chaos.py; tests/chaos.sh makes longer ones."""

import os

from chaos import chaos

SECONDS = 90


def test_chaos(build, tmp_path, hdfs, numbers):
    c = chaos(build, tmp_path, hdfs, int(os.environ.get("OSYNC_SEED", "1")), SECONDS)
    print(c.summary())
    for what, n in c.did.items():
        if what.startswith(("kills", "pauses", "leader moves", "planned")):
            numbers.add("chaos: " + what, n)
    numbers.audited(c.checked["rows"], c.checked["lost"], c.checked["twice"])
    assert not c.wrong
