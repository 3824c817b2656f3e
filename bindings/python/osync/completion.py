"""Completion of the command `osync` in a shell: `osync completion bash`, `zsh` or `fish` prints a script, made from the
command's own parser."""

from __future__ import annotations

import argparse
import shlex
from typing import Dict, Iterator, List, NamedTuple, Sequence

SHELLS = ("bash", "zsh", "fish")
TABLES = "osync --timeout 2 status --names 2>/dev/null"  # of the scheduler that OSYNC_SCHEDULER names


class Item(NamedTuple):
    """An option or a positional argument. `kind`: flag, choice, table, file, folder, or text that isn't completed."""

    flags: Sequence[str]
    help: str
    kind: str
    choices: Sequence[str]
    many: bool
    name: str


def _items(parser: argparse.ArgumentParser) -> Iterator[Item]:
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        metavar = str(action.metavar or action.dest)
        kinds = {"FILE": "file", "FOLDER": "folder", "DB.TABLE": "table"}
        kind = kinds.get(metavar, "text")
        if action.choices:
            kind = "choice"
        elif action.option_strings and action.nargs == 0:
            kind = "flag"
        choices = [str(c) for c in action.choices or ()]
        many = action.nargs in ("+", "*")
        yield Item(action.option_strings, _help(action.help), kind, choices, many, metavar)


def _help(text: object) -> str:
    """Its first part, without what argparse would fill in."""
    return str(text or "").split(" (%(", maxsplit=1)[0].split(";", maxsplit=1)[0]


def _parsers(parser: argparse.ArgumentParser) -> Dict[str, argparse.ArgumentParser]:
    return next(dict(a.choices) for a in parser._actions if isinstance(a, argparse._SubParsersAction))


def _command_help(parser: argparse.ArgumentParser, command: str) -> str:
    subs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return _help(next(c.help for c in subs._choices_actions if c.dest == command))


# ---- bash ----


def _bash_reply(item: Item) -> str:
    if item.kind == "choice":
        return f'COMPREPLY=($(compgen -W {shlex.quote(" ".join(item.choices))} -- "$cur"))'
    if item.kind == "table":
        return "_osync_tables"
    if item.kind in ("file", "folder"):
        return f'compopt -o filenames; COMPREPLY=($(compgen {"-f" if item.kind == "file" else "-d"} -- "$cur"))'
    return ""


def bash(parser: argparse.ArgumentParser) -> str:
    commands = _parsers(parser)
    out = [
        "# bash completion of osync: source it, or put it into /usr/share/bash-completion/completions/osync",
        "_osync_tables() {",  # not by compgen -W, which would expand what a name holds
        "    local word",
        f'    while read -r word; do [[ $word == "$cur"* ]] && COMPREPLY+=("$word"); done < <({TABLES})',
        "}",
        "_osync() {",
        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command='' places=0 word skip=''",
        "    COMPREPLY=()",
        '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        '        if [[ $skip ]]; then [[ $word == "=" ]] || skip=""; continue; fi',
        "        case $word in",
        "            :) skip=1 ;;",  # of host:port, which bash takes for three words
    ]
    every = [("", parser), *commands.items()]
    valued = sorted({f for _, p in every for i in _items(p) if i.kind != "flag" for f in i.flags})
    out += [
        f"            {'|'.join(valued)}) skip=1 ;;",
        "            -*) ;;",
        "            *) if [[ -z $command ]]; then command=$word; else places=$((places + 1)); fi ;;",
        "        esac",
        "    done",
        "    case $command:$prev in",
    ]
    for name, sub in every:
        for item in _items(sub):
            if item.flags and _bash_reply(item):
                patterns = "|".join(f"{name}:{f}" for f in item.flags)
                out.append(f"        {patterns}) {_bash_reply(item)}; return ;;")
    out.append(f"        {'|'.join(f'*:{f}' for f in valued)}) return ;;")
    out += ["    esac", "    case $command in"]
    for name, sub in every:
        flags = [f for i in _items(sub) for f in i.flags]
        pattern = name or "''"
        out.append(f"        {pattern})")
        out.append("            if [[ $cur == -* ]]; then")
        out.append(f"                COMPREPLY=($(compgen -W '{' '.join(flags)}' -- \"$cur\"))")
        positional = [i for i in _items(sub) if not i.flags]
        if not name:
            positional = [Item([], "", "choice", list(commands), False, "command")]
        for place, item in enumerate(positional):
            if not _bash_reply(item):
                continue
            test = "true" if item.many else f"[[ $places == {place} ]]"
            out.append(f"            elif {test}; then {_bash_reply(item)}")
        out.append("            fi ;;")
    out += ["    esac", "}", "complete -F _osync osync"]
    return "\n".join(out) + "\n"


# ---- zsh ----


def _zsh_text(text: str) -> str:
    for mark in "\\[]:":
        text = text.replace(mark, "\\" + mark)
    return text


def _zsh_action(item: Item) -> str:
    if item.kind == "choice":
        return f"({' '.join(item.choices)})"
    actions = {"table": f"($({TABLES}))", "file": "_files", "folder": "_files -/"}
    return actions.get(item.kind, " ")


def _zsh_specs(parser: argparse.ArgumentParser) -> List[str]:
    specs, place = [], 0
    for item in _items(parser):
        value = "" if item.kind == "flag" else f":{_zsh_text(item.name)}:{_zsh_action(item)}"
        if item.flags:
            others = f"({' '.join(item.flags)})" if len(item.flags) > 1 else ""
            specs += [f"{others}{flag}[{_zsh_text(item.help)}]{value}" for flag in item.flags]
        else:
            place += 1
            specs.append(("*" if item.many else str(place)) + value)
    return [shlex.quote(s) for s in specs]


def zsh(parser: argparse.ArgumentParser) -> str:
    commands = _parsers(parser)
    out = [
        "#compdef osync",
        "# zsh completion of osync: put it as _osync into a folder of $fpath, or source it behind compinit",
        "_osync() {",
        "    local context state state_descr line",
        "    typeset -A opt_args",
        "    local -a commands",
        "    commands=(",
        *(f"        {shlex.quote(f'{c}:{_command_help(parser, c)}')}" for c in commands),
        "    )",
        f"    _arguments -C {' '.join(_zsh_specs(parser))} '1:command:->command' '*::argument:->argument'",
        "    case $state in",
        "        command) _describe command commands ;;",
        "        argument)",
        "            case $words[1] in",
        *(f"                {name}) _arguments {' '.join(_zsh_specs(sub))} ;;" for name, sub in commands.items()),
        "            esac ;;",
        "    esac",
        "}",
        'if [[ $funcstack[1] == _osync ]]; then _osync "$@"; else compdef _osync osync; fi',
    ]
    return "\n".join(out) + "\n"


# ---- fish ----


def fish(parser: argparse.ArgumentParser) -> str:
    commands = _parsers(parser)
    out = ["# fish completion of osync: put it as osync.fish into ~/.config/fish/completions"]
    out.append("complete -c osync -f")
    for name in commands:
        help = shlex.quote(_command_help(parser, name))
        out.append(f"complete -c osync -n __fish_use_subcommand -a {name} -d {help}")
    for name, sub in [("", parser), *commands.items()]:
        when = f"'__fish_seen_subcommand_from {name}'" if name else "__fish_use_subcommand"
        for item in _items(sub):
            parts = [f"complete -c osync -n {when}"]
            for flag in item.flags:
                parts.append(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}")
            if item.flags and item.kind != "flag":
                parts.append("-r" if item.kind in ("file", "folder") else "-x")
            if item.kind == "choice":
                parts.append(f"-a {shlex.quote(' '.join(item.choices))}")
            elif item.kind == "table":
                parts.append(f"-a '({TABLES})'")
            elif item.kind in ("file", "folder"):
                parts.append("-F")
            elif not item.flags:
                continue
            out.append(" ".join([*parts, "-d", shlex.quote(item.help)]))
    return "\n".join(out) + "\n"


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    return {"bash": bash, "zsh": zsh, "fish": fish}[shell](parser)
