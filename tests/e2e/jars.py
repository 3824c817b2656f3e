"""Jars of Maven Central for tests, each list of them in a pom. As a command: `jars.py fetch` gets all of them."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
POMS = {  # name of the folder -> the list, and the property that has the version to put into the name
    "hadoop": (TESTS / "e2e/hdfs-pom.xml", "hadoop.version"),
    "brpc-java": (TESTS / "interop/pom.xml", "brpc.version"),
}


def fetch(name):
    """The folder of jars, downloaded once. It appears by rename, so one that exists is complete."""
    path, key = POMS[name]
    pom = path.read_bytes()
    version = re.search(rb"<%s>(.*?)</%s>" % (key.encode(), key.encode()), pom).group(1).decode()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "libosync"
    # The list's own hash is part of the name: a changed list must not find the jars of the former one.
    target = cache / f"{name}-{version}-{hashlib.sha256(pom).hexdigest()[:8]}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    tmp = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache))
    try:
        subprocess.run(
            ["mvn", "-q", "-B", "-f", str(path), "dependency:copy", f"-DoutputDirectory={tmp / 'lib'}"],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
        )
        try:
            (tmp / "lib").rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster, which is as good
                raise
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return target


def main(argv):
    if argv[1:] != ["fetch"]:
        print("usage: jars.py fetch", file=sys.stderr)
        return 2
    for name in POMS:
        print(fetch(name))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
