#!/usr/bin/env python3
"""Makes docs/api.md of the public headers: their comments as prose, their declarations as they stand.

    docs/reference.py            writes docs/api.md
    docs/reference.py --print    to standard output

It knows the form that these headers have, not C: comments stand before what they describe, on lines of their own.
"""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
HEADERS = HERE.parent / "include/osync"

# The order to read them in, each group with what it is for.
GROUPS = [
    ("What everything uses", ["error", "log", "alloc", "version", "export"]),
    ("Tables and rows", ["table", "reader", "row", "csv"]),
    ("Files, each exactly once", ["stream", "sink", "checkpoint"]),
    ("The two daemons as objects", ["collector", "source", "scheduler", "config"]),
    ("Asking a scheduler", ["client"]),
]

INTRO = """# The C API

Made from the headers below `include/osync/` by `docs/reference.py`. The rules that hold for all of it (ownership,
threads, callbacks, errors, structs that grow) and complete programs are in [embedding.md](embedding.md).
"""


def header(name):
    path = HEADERS / f"{name}.h"
    if path.exists():
        return path.read_text()
    return re.sub(r"@\w+@", "...", (HEADERS / f"{name}.h.in").read_text())  # version.h: its numbers are the build's


def names():
    """Every public header there is."""
    return sorted(p.name.split(".")[0] for p in HEADERS.iterdir() if p.name.endswith((".h", ".h.in")))


def scan(text, at):
    """The end of the declaration that begins at `at`: behind its ';' outside of all brackets."""
    depth = 0
    for token in re.compile(r"/\*.*?\*/|\"[^\"]*\"|[(){};]", re.S).finditer(text, at):
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(token[0], 0)
        if token[0] == ";" and depth == 0:
            # A comment on the same line belongs to it.
            rest = re.compile(r"[ ]*(/\*[^\n]*\*/)?").match(text, token.end())
            return rest.end()
    raise ValueError(f"a declaration has no end: {text[at : at + 80]!r}")


def pieces(text):
    """('comment' | 'code' | 'blank', text) of what a header holds between its frame of guard and extern "C"."""
    text = re.sub(r'#ifdef __cplusplus\n.*?#endif\n', "", text, flags=re.S)
    text = re.sub(r"#ifndef (OSYNC_\w+_H)\n#define \1\n(.*)#endif\n\Z", r"\2", text, flags=re.S)
    text = re.sub(r"^#(include|undef) .*\n", "", text, flags=re.M)
    at = 0
    while at < len(text):
        if text.startswith("/*", at):
            end = text.index("*/", at) + 2
            yield "comment", text[at:end]
        elif text.startswith("#if", at):
            end = text.index("#endif", at) + len("#endif")
            yield "code", text[at:end]
        elif text.startswith("#", at):
            end = re.compile(r"(?:.*\\\n)*.*").match(text, at).end()
            yield "code", re.sub(r" +\\\n", " \\\\\n", text[at:end])
        elif text[at] == "\n":
            end = re.compile(r"\n+").match(text, at).end()
            if end - at > 1:
                yield "blank", ""
        else:
            end = scan(text, at)
            yield "code", text[at:end]
        at = end


def items(text):
    """(comment, [declaration, ...]) in order; the first one is the header's own comment, without declarations. A
    declaration without a comment of its own that follows another one on the next line is described with it."""
    found, comment, joined = [], None, False
    for kind, piece in pieces(text):
        if kind == "comment":
            if not found and comment is not None:
                found.append((comment, []))
            comment, joined = piece, False
        elif kind == "blank":
            if comment is not None and not found:
                found.append((comment, []))
                comment = None
            joined = False
        elif joined:
            found[-1][1].append(piece)
        else:
            if not found and comment is not None:
                found.append(("", []))
            found.append((comment or "", [piece]))
            comment, joined = None, True
    return found


def declared(code):
    """The names under which a declaration is looked for."""
    for pattern in (
        r"#define (\w+)",
        r"^typedef[^;{]*\(\*(\w+)\)\(",  # a callback's type
        r"^(?:typedef.*)?\}\s*(\w+);",  # typedef struct or enum with a body
        r"^typedef [\w\s*]*?\b(\w+);",
        r"^OSYNC_API\s[^;(]*?\b(\w+)\(",
        r"^(?:struct|enum) (\w+) \{",
    ):
        match = re.search(pattern, code, re.M)
        if match:
            return [match[1]]
    constants = re.findall(r"\b(OSYNC_\w+) =", code)
    if constants:
        return constants
    raise ValueError(f"no name in {code!r}")


def slug(title):
    """The anchor that Markdown gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def prose(comment, anchors):
    """A comment as Markdown: names that have an entry become links, indented lines stay code."""
    if not comment:
        return ""
    lines = comment[2:-2].split("\n")
    lines = [lines[0].strip(), *(re.sub(r"^ \* ?", "", line).rstrip() for line in lines[1:])]
    if lines and not lines[-1].strip():
        lines.pop()
    out, code = [], False
    for line in lines:
        if line.startswith("    "):
            if not code and out and out[-1]:
                out.append("")
            code = True
            out.append(line)
            continue
        if code and line:
            out.append("")
        code = False
        parts = re.split(r"(`[^`]*`)", line)
        for i, part in enumerate(parts):
            if i % 2 == 0:
                part = re.sub(r"([*<>\[\]])", r"\\\1", part)
                part = re.sub(r"\bdocs/(\w+\.md)", r"[\1](\1)", part)
                parts[i] = re.sub(r"\b(osync_\w+)(?!\w|\.\w)", lambda m: link(m[1], anchors), part)
        out.append("".join(parts))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip("\n") + "\n"


def link(name, anchors):
    return f"[{name}](#{anchors[name]})" if name in anchors else name


def errors_table(code):
    """The map of error codes as a table."""
    out = ["| code | value | text | waiting may mend it |", "|---|---|---|---|"]
    for name, value, text, retriable in re.findall(r'X\((\w+), (-\d+), "([^"]*)", (\w+)\)', code):
        out.append(f"| `OSYNC_{name}` | {value} | {text} | {'yes' if retriable == 'true' else 'no'} |")
    return "\n".join(out) + "\n"


def reference():
    listed = [n for _, group in GROUPS for n in group]
    missing = set(names()) ^ set(listed)
    if missing:
        raise ValueError(f"headers that are in GROUPS or in {HEADERS}, but not in both: {sorted(missing)}")
    parsed = {n: items(header(n)) for n in listed}
    anchors = {}
    for found in parsed.values():
        for _, codes in found:
            together = [n for code in codes for n in declared(code)]
            anchors.update({n: slug(", ".join(together)) for n in together})
    out = [INTRO]
    for title, group in GROUPS:
        out.append(f"**{title}:** " + " · ".join(f"[{n}.h](#osync{n}h)" for n in group) + "\n")
    for name in listed:
        out.append(f"## osync/{name}.h\n")
        for comment, codes in parsed[name]:
            if codes:
                out.append(f"### {', '.join(n for code in codes for n in declared(code))}\n")
            out.append(prose(comment, anchors))
            for code in codes:
                if declared(code) == ["OSYNC_ERROR_MAP"]:
                    out.append(errors_table(code))
            code = "\n".join(c for c in codes if declared(c) != ["OSYNC_ERROR_MAP"])
            if code:
                out.append(f"```c\n{code}\n```\n")
    return "\n".join(part for part in out if part)


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(reference())
    elif not sys.argv[1:]:
        (HERE / "api.md").write_text(reference())
    else:
        sys.exit(__doc__)
