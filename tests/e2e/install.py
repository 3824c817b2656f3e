"""`meson install` of the build that is tested."""

import os
import subprocess


def install(build, dest):
    env = {**os.environ, "DESTDIR": str(dest)}
    subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--quiet"], check=True, env=env)
