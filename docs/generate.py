"""Write the reference pages from the code: python docs/generate.py. A test checks that the committed pages are up to date."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "reference"
NOTE = "<!-- Written by docs/generate.py: change the code and run it again. -->\n\n"
MODULES = (
    "npukit",
    "npukit.quantization",
    "npukit.trials",
    "npukit.diagnosis",
    "npukit.replay",
    "npukit.legalize",
    "npukit.calibration",
    "npukit.backend",
    "npukit.backend.kernels",
    "npukit.backend.ort",
    "npukit.encoding",
    "npukit.encoding.formats",
    "npukit.graph",
    "npukit.package",
    "npukit.plugins",
    "npukit.commands",
    "npukit.testing",
    "npukit.events",
    "npukit.callbacks",
    "npukit.demo",
)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; pipes and line breaks in cells are escaped."""

    def line(cells: Iterable[object]) -> str:
        return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", "<br>") for c in cells) + " |"

    return "\n".join([line(headers), line("---" for _ in headers), *map(line, rows)]) + "\n"


def markdown(docstring: str | None) -> str:
    """A docstring as Markdown: literals in single backticks, ``::`` blocks as indented code."""
    text = inspect.cleandoc(docstring or "")
    text = re.sub(r"^::\n\n", "", text, flags=re.MULTILINE)
    return re.sub(r"::\n\n    ", ":\n\n    ", text).replace("``", "`")


# ------------------------------------------------------------------------------------------------------------ command line


def cli() -> str:
    """All commands with their flags."""
    from npukit.cli.parser import _EPILOG, COMMANDS, add_plugin_commands, build_parser, commands_of

    parser = build_parser()
    add_plugin_commands(parser)
    commands = commands_of(parser)
    parts = [NOTE + "# Command line\n", f"```text\n{_EPILOG}```\n"]
    parts.append(table(["Command", "What"], [(f"[`{n}`](#npukit-{n})", m.SUMMARY) for n, m in COMMANDS.items()]))
    common: argparse._ArgumentGroup | None = None
    leaves = [leaf for word, top in commands.items() for leaf in _leaves(word, top)]
    for name, parser in leaves:
        groups = [g for g in parser._action_groups if g._group_actions]
        parts.append(f"## npukit {name}\n\n{markdown(parser.description)}\n")
        parts.append(_flags(a for g in groups if g.title != "common" for a in g._group_actions))
        common = common or next(g for g in groups if g.title == "common")
    assert common is not None
    parts.append("## Flags of every command\n\n" + _flags(common._group_actions))
    return "\n".join(part for part in parts if part)


def _leaves(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A command, or in its place the commands below it."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        for word, sub in action.choices.items():
            yield from _leaves(f"{name} {word}", sub)


def _flags(actions: Iterable[argparse.Action]) -> str:
    rows = []
    for action in actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else "")
        names = ", ".join(action.option_strings) or action.dest
        shown = f"`{names} {value}`" if value and action.option_strings and action.nargs != 0 else f"`{names}`"
        rows.append((shown, (action.help or "") + (" (required)" if action.required and action.option_strings else "")))
    return table(["Flag", "What"], rows) if rows else ""


# -------------------------------------------------------------------------------------------------------------- python api


def python_api() -> str:
    """Every public name of the public modules."""
    parts = [NOTE + "# Python API\n"]
    parts.append("What is listed here is public; names that start with an underscore, and modules that are not listed, are not.\n")
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        parts.append(f"## {module_name}\n\n{markdown(module.__doc__)}\n")
        parts += [_describe(name, getattr(module, name)) for name in sorted(_public(module), key=str.lower)]
    return "\n".join(parts)


def _public(module: Any) -> list[str]:
    names = getattr(module, "__all__", None)
    if names is None:
        names = [n for n, v in vars(module).items() if not n.startswith("_") and getattr(v, "__module__", "") == module.__name__]
    return [n for n in names if not n.startswith("__")]


def _describe(name: str, value: Any) -> str:
    """One name; what is an alias of a name in another public module is described there."""
    if inspect.isclass(value):
        return _describe_class(name, value)
    if inspect.isfunction(value):
        return f"### {name}\n\n```text\n{name}{_signature(value)}\n```\n\n{markdown(value.__doc__)}\n"
    shown = f" = `{value!r}`" if isinstance(value, (int, str, float)) else ""
    return f"### {name}\n\n{type(value).__name__}{shown}\n"


def _describe_class(name: str, value: type) -> str:
    parts = [f"### {name}\n\n```text\n{name}{_signature(value)}\n```\n\n{markdown(value.__doc__)}\n"]
    rows = []
    for key, member in vars(value).items():
        if key.startswith("_"):
            continue
        if isinstance(member, property):
            rows.append((f"`{key}`", _first(member.fget)))
        elif isinstance(member, (classmethod, staticmethod)) or inspect.isfunction(member):
            function: Callable[..., Any] = getattr(value, key)
            rows.append((f"`{key}{_signature(function, wide=True)}`", _first(function)))
    rows = [row for row in rows if row[1]]
    return "\n".join([*parts, table(["Member", "What"], rows)]) if rows else parts[0]


def _signature(value: Any, *, wide: bool = False) -> str:
    """The signature, one parameter a line when it is long and not ``wide``; an object as default is shown by its name."""
    found = inspect.signature(value)
    parts: list[str] = []
    for parameter in found.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        parts.append(prefix + parameter.name + _annotation(": ", parameter.annotation) + _default(parameter.default))
    returned = "" if inspect.isclass(value) else _annotation(" -> ", found.return_annotation)
    line = f"({', '.join(parts)}){returned}"
    if wide or len(line) <= 90:
        return line
    return "(\n" + "".join(f"    {part},\n" for part in parts) + f"){returned}"


def _annotation(before: str, annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return before + (annotation if isinstance(annotation, str) else inspect.formatannotation(annotation))


def _default(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return ""
    plain = isinstance(default, (int, float, str, tuple, frozenset, type(None)))
    return f" = {default!r}" if plain else f" = {getattr(default, '__name__', '...')}"


def _first(value: Any) -> str:
    return markdown(getattr(value, "__doc__", "")).split("\n\n")[0].replace("\n", " ")


# --------------------------------------------------------------------------------------------------------------------- htp


def op_constraints() -> str:
    """The op constraints of the HTP backend, by op."""
    from npukit.cli.backends import port_text
    from npukit_htp.backend import HtpBackend

    backend = HtpBackend()
    by_op = defaultdict(list)
    for row in backend.constraints():
        by_op[row.op].append(row)
    sources = {source: i for i, source in enumerate(sorted({r.source for r in backend.constraints()}), 1)}
    parts = [NOTE + "# Op constraints of HTP\n"]
    parts.append(
        "A node is legal when one row of its op accepts all its inputs and outputs. `From` is the first architecture that has the"
        " form; `S` is the source, with the confidence in it. `npukit backends htp --rules OP` prints the same.\n"
    )
    parts.append("\n".join(f"{i}. {source}" for source, i in sources.items()) + "\n")
    missing = sorted({row.op for row in backend.constraints() if not backend.supports(row.op, row.domain)})
    parts.append(f"Accepted, but without a kernel in the emulator (`--float-fallback`): {', '.join(missing) or 'none'}.\n")
    for op, rows in sorted(by_op.items()):
        native = rows[0].native
        parts.append(f"## {op}\n" + (f"\nNative op: {native}\n" if native else ""))
        parts.append(
            table(
                ["Form", "From", "Inputs", "Outputs", "Limits", "S"],
                [
                    (
                        row.variant or "-",
                        row.min_arch or "any",
                        "\n".join(f"{i}: {port_text(p)}" for i, p in enumerate(row.inputs)) + (" ..." if row.variadic else ""),
                        "\n".join(f"{i}: {port_text(p)}" for i, p in enumerate(row.outputs)),
                        _limits(row),
                        f"{sources[row.source]}, {row.confidence}",
                    )
                    for row in rows
                ],
            )
        )
    return "\n".join(parts)


def _limits(row: Any) -> str:
    parts = [f"{key} in {list(values)}" for key, values in row.attributes.items()]
    if row.min_rank or row.max_rank is not None:
        high = "" if row.max_rank is None else row.max_rank
        parts.append(f"rank {row.min_rank or ''}..{high}")
    return "\n".join([*parts, *map(str, row.caveat), *([row.doc] if row.doc else [])]) or "-"


def socs() -> str:
    """The SoCs of the HTP backend."""
    from npukit_htp.backend import HtpBackend

    rows = [
        (f"`{s.name}`", s.arch, "-" if s.id is None else s.id, f"{s.memory_mb:g}" if s.memory_mb else "-", s.title or "-", s.source)
        for s in HtpBackend().socs()
    ]
    text = (
        f"{len(rows)} SoCs. `--backend htp:NAME` takes a name in any case, `--backend htp:v79` the first SoC of an architecture,"
        " `--soc-file FILE.yaml` one of your own.\n"
    )
    return f"{NOTE}# SoCs of HTP\n\n{text}\n" + table(["SoC", "Arch", "Id", "Memory MB", "Title", "Source"], rows)


def errors() -> str:
    """The exception tree and what the codes mean."""
    import npukit.errors
    from npukit.cli.explain import TEXTS

    tree = markdown(npukit.errors.__doc__).split("\n\n", 1)
    text = f"{NOTE}# Errors\n\n{tree[1]}\n\n## Codes and rules\n\n`npukit explain CODE` prints the same.\n\n"
    return text + table(["Code", "What it means"], [(f"`{code}`", what) for code, what in TEXTS.items()])


def qairt_flags() -> str:
    """Every flag of QAIRT's tools: what it does, or why it is refused."""
    from npukit_qairt.flags import TOOLS

    parts = [NOTE + "# Flags of QAIRT's tools\n"]
    parts.append("[How to use them](../how-to/qairt-scripts.md). Hyphens and underscores are the same.\n")
    for tool in TOOLS.values():
        rows = []
        for flag in tool.flags:
            value = " ".join(flag.metavar) if isinstance(flag.metavar, tuple) else flag.metavar
            names = ", ".join(filter(None, (flag.name, flag.short)))
            what = flag.help or (f"Changes nothing, and says so: {flag.idle}." if flag.idle else "")
            if flag.refused:
                what = f"**Refused**: {flag.refused}. Instead: {flag.instead}."
            choices = f" ({', '.join(map(str, flag.choices))})" if flag.choices and str(flag.choices[0]) not in what else ""
            older = f" Older: {', '.join(f'`{name}`' for name in flag.old)}." if flag.old else ""
            rows.append(
                (f"`{names}{' ' + value if value else ''}`", what + choices + older + (" (required)" if flag.required else ""))
            )
        parts.append(f"## {tool.name}\n\n{tool.title}\n\n{table(['Flag', 'What'], rows)}")
    return "\n".join(parts)


def qaic_exec_flags() -> str:
    """Every flag of qaic-exec: what it does here, that it has no effect, or why it is refused."""
    from npukit_aic.tools.exec_flags import ALIASES, FLAGS, spelling, what

    parts = [NOTE + "# Flags of qaic-exec\n"]
    parts.append(
        "`qaic-compile` takes the same. A flag is `-NAME=VALUE` or `-NAME VALUE`, with one hyphen or two; a flag without a value is"
        " true. Empty arguments are skipped, lists add up. The folder of `-aic-binary-dir` must not be there yet. Exit code 0: all"
        " that was asked for is written; 1: the model has a problem; 2: flags or files have one.\n"
    )
    older = {row: [f"`-{name}`" for name, flag in ALIASES.items() if flag == row] for row in FLAGS}
    rows = [
        (
            " or ".join([f"`{spelling(row)}`", *older[flag]]),
            what(row) + (f" (default: {row.default})" if row.default not in (None, False, "", (), {}) else ""),
        )
        for flag, row in FLAGS.items()
    ]
    return "\n".join([*parts, table(["Flag", "What"], rows)])


ACTIONS = {
    "N": "changes what is computed",
    "P": "changes what the model of speed says (`run_benchmark`, `npukit bench`)",
    "R": "changes what a session holds of a card",
    "T": "writes or prints something",
    "V": "is checked and kept in the QPC, and changes nothing else",
    "X": "is refused",
}


def qaic_options() -> str:
    """Every option of qaic.Session: its values, what it does here, and the test that shows it."""
    from npukit_aic.options import ROWS

    rows = []
    for row in ROWS:
        default = "" if row.default in (None, "", (), {}) else f"\nDefault: {row.default}"
        names = "\n".join([f"`{row.name}`", *(f"also `{name}`" for name in row.aliases), *([f"`-{row.flag}`"] if row.flag else [])])
        what = f"**Refused**: {row.refused}." if row.refused else f"{row.help}."
        rows.append((names, row.allowed + default, f"{what[0].upper()}{what[1:]}", row.action, f"`{row.test}`"))
    letters = "\n".join(f"- {letter}: the option {what}." for letter, what in ACTIONS.items())
    return (
        f"{NOTE}# Options of qaic.Session\n\nKeywords of `qaic.Session`, keys of its `options_path` file, and beside them what"
        " `qaic-exec` calls them. Hyphens and underscores are the same, and values may be texts. An option that is not known is"
        " warned of, with `strict` it is an error. With a QPC, options of the compiler are ignored, and one line says so.\n\n"
        f"{letters}\n\nThe last column names the test in `tests/aic` that shows the effect.\n\n"
        + table(["Option", "Accepts", "What it does here", "", "Test"], rows)
    )


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli,
    "python-api.md": python_api,
    "op-constraints-htp.md": op_constraints,
    "socs-htp.md": socs,
    "errors.md": errors,
    "qairt-flags.md": qairt_flags,
    "qaic-exec-flags.md": qaic_exec_flags,
    "qaic-options.md": qaic_options,
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make().rstrip("\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
