"""Takes the version from the one place of the number, the project's meson.build; an sdist carries it in PKG-INFO."""

import pathlib
import re

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).resolve().parent


def version():
    for file, line in [("PKG-INFO", r"^Version: (\S+)"), ("../../meson.build", r"^project\(.*? version: '([^']+)'")]:
        if (HERE / file).exists():
            return re.search(line, (HERE / file).read_text(), re.M).group(1)
    raise SystemExit("setup.py: neither PKG-INFO nor the project's meson.build is there, so the version isn't known")


class BuildWithVersion(build_py):
    """Adds osync/_version.py, which meson makes of _version.py.in for an installed tree."""

    def run(self):
        super().run()
        text = (HERE / "_version.py.in").read_text().replace("@version@", version())
        pathlib.Path(self.build_lib, "osync/_version.py").write_text(text)


setup(version=version(), cmdclass={"build_py": BuildWithVersion})
