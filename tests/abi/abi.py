#!/usr/bin/python3
"""libosync's ABI: the functions that are exported, and the types that their callers must know.

    abi.py describe INCLUDE_FOLDER OUT    writes it in abidw's form
    abi.py compare OLD INCLUDE_FOLDER     says what breaks programs that were built with OLD's headers

It is made from the public headers, not from a build: each prototype becomes an empty function, so that the description
holds no opaque type's insides, and depends neither on the compiler's options nor on the version of libuv. That a build
exports just these functions is what test_exports of tests/e2e/test_install.py says; that they are what the headers say
is what the compiler checks.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET

UV = "typedef struct uv_loop_s uv_loop_t;\n"  # all that the headers want of it
PROTOTYPE = re.compile(r"\bOSYNC_API ([^;{]+);")
# Structs that begin with their own size, which tells how many members the caller knows.
SIZED = re.compile(r"osync_\w+_(config|options|ops|key|files)")


def headers(include):
    """Name and text of each public header."""
    out = {}
    for path in sorted(pathlib.Path(include).glob("*.h*")):
        text = path.read_text()
        if path.suffix == ".in":  # version.h before it is made: only its prototype matters
            text = re.sub(r"@\w+@", "0", text)
        out[path.name.removesuffix(".in")] = text
    return out


def describe(texts, out):
    """Writes the description of the headers `texts` (name: text) to the file `out`."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "osync").mkdir()
        (folder / "uv.h").write_text(UV)
        source = []
        for header, text in texts.items():
            (folder / "osync" / header).write_text(text)
            source.append(f"#include <osync/{header}>")
        for text in texts.values():
            text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
            source += [f"{prototype} {{ __builtin_trap(); }}" for prototype in PROTOTYPE.findall(text)]
        (folder / "stub.c").write_text("\n".join(source) + "\n")
        library = folder / "libosync.so"
        subprocess.run(
            ["gcc", "-std=gnu11", "-g", "-w", "-fPIC", "-shared", "-fvisibility=hidden"]
            + ["-fno-eliminate-unused-debug-types", "-I.", "stub.c", "-o", library],
            check=True,
            cwd=folder,
        )
        subprocess.run(
            ["abidw", "--load-all-types", "--headers-dir", folder / "osync", "--drop-private-types"]
            + ["--no-show-locs", "--no-comp-dir-path", "--no-corpus-path", "--out-file", out, library],
            check=True,
        )


def structs(tree):
    """Those that are sized: name to element and [(element, name, offset)] of the members."""
    out = {}
    for struct in tree.iter("class-decl"):
        if SIZED.fullmatch(struct.get("name")):
            members = [
                (m, m.find("var-decl").get("name"), m.get("layout-offset-in-bits"))
                for m in struct.iter("data-member")
            ]
            out[struct.get("name")] = (struct, members)
    return out


def enums(tree):
    """By its name or, if it has none, by that of its first enumerator."""
    out = {}
    for enum in tree.iter("enum-decl"):
        values = enum.findall("enumerator")
        out[values[0].get("name") if enum.get("is-anonymous") else enum.get("name")] = (enum, values)
    return out


def drop_growth(old, new):
    """Takes what may be added, by the rules of the headers, out of `new`: members at the end of a sized struct, and
    names of an enumeration."""
    was = structs(old)
    for name, (struct, members) in structs(new).items():
        if name in was and [m[1:] for m in members[: len(was[name][1])]] == [m[1:] for m in was[name][1]]:
            for member, _, _ in members[len(was[name][1]) :]:
                struct.remove(member)
            struct.set("size-in-bits", was[name][0].get("size-in-bits"))
    was = enums(old)
    for name, (enum, values) in enums(new).items():
        known = {v.get("name") for v in was[name][1]} if name in was else None
        for value in values:
            if known and value.get("name") not in known:
                enum.remove(value)


def compare(old, texts):
    """What breaks programs that were built with the headers of the description `old`; "" if nothing does."""
    with tempfile.TemporaryDirectory() as name:
        new = pathlib.Path(name) / "new.abi"
        describe(texts, new)
        tree = ET.parse(new)
        drop_growth(ET.parse(old), tree)
        tree.write(new)
        done = subprocess.run(
            ["abidiff", "--no-default-suppression", "--no-architecture", "--no-corpus-path", "--harmless"]
            + ["--non-reachable-types", old, new],
            capture_output=True,
            text=True,
        )
        if done.returncode & 3:
            raise RuntimeError(f"abidiff failed: {done.stderr}")
        # Its exit status counts new types too.
        return (
            done.stdout if re.search(r"summary: .*\b[1-9]\d* (removed|changed)", done.stdout, re.IGNORECASE) else ""
        )


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("describe", "compare"):
        sys.exit(__doc__)
    if sys.argv[1] == "describe":
        describe(headers(sys.argv[2]), sys.argv[3])
    else:
        sys.exit(compare(sys.argv[2], headers(sys.argv[3])) or 0)
