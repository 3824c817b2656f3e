"""Full disks and lost power, by the shim (tests/shim/shim.c)."""

import os
import pathlib
import shutil
import struct


class Disk:
    """Some folders of a process, as if on a disk of their own that can be filled, and, with `forgets`, that keeps at a
    power loss only what was made durable. `env` is for the process. All folders must be on one file system."""

    def __init__(self, build, state, *roots, forgets=False):
        self.roots = [pathlib.Path(r) for r in roots]
        self.state = pathlib.Path(state)
        self.state.mkdir()
        self.space = self.state / "space"
        self.space.write_bytes(struct.pack("=q", -1))
        self.shadow = self.state / "shadow"
        shim = build / "tests/shim/osync-shim.so"
        assert shim.exists(), f"{shim} is not built"  # the loader would only warn
        self.env = {
            "LD_PRELOAD": str(shim),
            "OSYNC_SHIM_ROOT": ":".join(map(str, self.roots)),
            "OSYNC_SHIM_SPACE": str(self.space),
        }
        self.gone = set()  # entries of the roots that the test has removed
        self.losses, self.lost = 0, {"files": 0, "names": 0}
        for root in self.roots:
            root.mkdir(parents=True, exist_ok=True)
        if forgets:
            self.env["OSYNC_SHIM_SHADOW"] = str(self.shadow)
            self.all_durable()

    def fill(self, left=0):
        """So many bytes can still be written."""
        self._set(left)

    def make_room(self):
        self._set(-1)

    def _set(self, value):
        with open(self.space, "r+b") as f:  # in place: the process has it mapped
            f.write(struct.pack("=q", value))

    # ---- power ----

    @staticmethod
    def _key(path):
        """As the shim's."""
        st = os.lstat(path)
        return f"{st.st_ino}-{_birth(path)}"

    def all_durable(self):
        """What there is now is durable, also what others have put there."""
        shutil.rmtree(self.shadow, ignore_errors=True)
        for kind in ("data", "dirs", "made", "keep"):
            (self.shadow / kind).mkdir(parents=True)
        for root in self.roots:
            for top, folders, files in os.walk(root):
                lines = []
                for name in folders + files:
                    path = os.path.join(top, name)
                    lines.append(f"{'d' if name in folders else 'f'}{self._key(path)} {name}\n")
                    if name in files and os.stat(path).st_nlink == 1:  # others' files are not written to here
                        key = self._key(path)
                        (self.shadow / "made" / key).touch()
                        shutil.copy2(path, self.shadow / "data" / key)  # with its attributes
                (self.shadow / "dirs" / self._key(top)).write_text("".join(lines))

    def lose_power(self, rng):
        """To be called when the process is dead: what wasn't made durable is gone, or, as chance will have it, some of
        it isn't. `rng` None: all of it is gone."""
        self.losses += 1
        files = {}  # key -> a path that leads to it
        for root in self.roots:
            for top, _, names in os.walk(root):
                files |= {self._key(os.path.join(top, n)): os.path.join(top, n) for n in names}
        files |= {p.name: str(p) for p in (self.shadow / "keep").iterdir() if p.name not in files}
        for root in self.roots:
            new = root.with_name(root.name + ".after")
            shutil.rmtree(new, ignore_errors=True)
            self._rebuild(root, self._key(root), new, files, rng)
            old = root.with_name(root.name + ".before")
            root.rename(old)
            new.rename(root)
        for root in self.roots:
            shutil.rmtree(root.with_name(root.name + ".before"))
        self.all_durable()

    def _entries(self, now, key):
        """(durable, present) entries of a folder: name -> (kind, key)."""
        listing = self.shadow / "dirs" / key
        durable = {}
        for line in listing.read_text().splitlines() if listing.exists() else []:
            entry, name = line.split(" ", 1)
            durable[name] = (entry[0], entry[1:])
        present = {}
        if now and os.path.isdir(now):
            for e in os.scandir(now):
                present[e.name] = ("d" if e.is_dir(follow_symlinks=False) else "f", self._key(e.path))
        return durable, present

    def _rebuild(self, now, key, new, files, rng):
        """`now`: where the folder is, None if it is gone."""
        os.mkdir(new)
        durable, present = self._entries(now, key)
        entries = dict(durable)
        for name, (kind, entry) in present.items():
            if name not in durable:
                # A new file may have made it to the disk. Not what a rename has moved: that is in one place, or in the
                # other.
                fresh = kind == "f" and not any((self.shadow / k / entry).exists() for k in ("data", "keep"))
                if fresh and rng and rng.random() < 0.5:
                    entries[name] = (kind, entry)
                else:
                    self.lost["names"] += 1
        for name, (kind, entry) in entries.items():
            if now and os.path.join(now, name) in self.gone:
                continue
            there = os.path.join(now, name) if now and present.get(name) == (kind, entry) else None
            if kind == "d":
                self._rebuild(there or self._find(entry), entry, os.path.join(new, name), files, rng)
            elif entry in files:
                self._put(files[entry], entry, os.path.join(new, name), rng)
            else:
                raise RuntimeError(f"{new}/{name} was durable, and there is nothing to bring it back from")

    def _find(self, key):
        """Where a folder that was moved is now."""
        for root in self.roots:
            for top, _, _ in os.walk(root):
                if self._key(top) == key:
                    return top
        return None

    def _put(self, source, key, path, rng):
        """The same inode, with the content that was made durable."""
        os.link(source, path)
        if not (self.shadow / "made" / key).exists():
            return  # another process's file
        durable = self.shadow / "data" / key
        content = durable.read_bytes() if durable.exists() else b""
        with open(path, "r+b") as f:
            present = f.read()
            if present != content:
                self.lost["files"] += 1
                if rng and rng.random() < 0.5 and present.startswith(content):
                    content = present[: rng.randint(len(content), len(present))]
                f.seek(0)
                f.write(content)
                f.truncate()
        for name in os.listxattr(path):
            os.removexattr(path, name)
        if durable.exists():
            for name in os.listxattr(durable):
                os.setxattr(path, name, os.getxattr(durable, name))


def _birth(path):
    """The birth time as the shim writes it; Python doesn't tell it."""
    import ctypes

    libc = _birth.__dict__.setdefault("libc", ctypes.CDLL(None, use_errno=True))
    room = ctypes.create_string_buffer(256)
    at_fdcwd, no_follow, btime = -100, 0x100, 0x800
    if libc.statx(at_fdcwd, os.fsencode(path), no_follow, btime | 0x7FF, room):
        raise OSError(ctypes.get_errno(), os.fspath(path))
    seconds, nanoseconds = struct.unpack_from("=qI", room, 80)
    return f"{seconds}.{nanoseconds}"
