"""The documentation is true: its code runs, its output is what comes out, its generated pages are those of the code."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import math
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from npukit.cli import main
from npukit_aic.launcher import TOOLS as AIC_TOOLS
from npukit_qairt.flags import TOOLS
from npukit_qairt.main import main as run_tool

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if p.parent.name != "reference")
BLOCK = re.compile(r"^(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
AIC = {Path(place).name: f"npukit_aic.tools.{module}" for place, module in AIC_TOOLS.items()}
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def demo_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what ``npukit demo -o .`` writes; the how-to pages start from it."""
    folder = tmp_path_factory.mktemp("demo")
    assert main(["demo", "-q", "-o", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_page_runs(page: Path, demo_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every python and console block of a page runs, in order, in one folder, and prints what the page shows.

    A block below ``<!-- file: NAME -->`` is a file that the reader writes; a page with ``<!-- needs: MODULE, ... -->`` is skipped
    where one of the modules is not installed.
    """
    needed = re.match(r"<!-- needs: ([\w, ]+) -->", page.read_text(encoding="utf-8"))
    missing = [name for name in (needed[1].split(", ") if needed else ()) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    folder = tmp_path / "page"
    shutil.copytree(demo_files, folder) if page.parent.name != "tutorial" else folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where cards are claimed: each page has its own
    monkeypatch.setattr(tempfile, "tempdir", None)
    names: dict[str, Any] = {"__name__": "docs"}
    for file, kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if file:
            Path(file).write_text(text, encoding="utf-8")
        elif kind == "python":
            exec(compile(text, f"{page.name}", "exec"), names)
        elif kind == "console":
            for command, shown, code in _commands(text):
                _run(command, shown, code)


def _commands(text: str) -> Iterator[tuple[list[str], list[str], int]]:
    """(words, lines shown, exit code) of each command; a following ``$ echo $?`` tells the exit code, 0 without."""
    parts = [part.splitlines() for part in re.split(r"^\$ ", text, flags=re.MULTILINE) if part.strip()]
    for part, following in itertools.zip_longest(parts, parts[1:], fillvalue=[""]):
        words = shlex.split(part[0], comments=True)
        if words and (words[0] == "npukit" or words[0] in (*TOOLS, *AIC)):
            yield words, part[1:], int(following[1]) if following[0] == "echo $?" else 0


def _run(words: list[str], shown: list[str], code: int) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        found = _call(words)
    printed = (err.getvalue() + out.getvalue()).splitlines()
    assert found == code, f"{shlex.join(words)}: exit code {found}\n" + "\n".join(printed)
    wanted = [line for line in shown if line.strip() and line.strip() != "..."]
    missing = [line for line in wanted if not any(_same(line, other) for other in printed)]
    assert not missing, f"{shlex.join(words)}: not printed: {missing}\n" + "\n".join(printed)


def _call(words: list[str]) -> int:
    if words[:2] == ["npukit", "aic-run"]:
        done = subprocess.run([sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(done.stdout)
        return done.returncode
    if words[0] == "npukit":
        return main(words[1:])
    return importlib.import_module(AIC[words[0]]).main(words[1:]) if words[0] in AIC else run_tool(words[0], words[1:])


def _same(shown: str, printed: str) -> bool:
    """Whether the texts agree but for spacing and numbers, and the numbers to 10 %; ``...`` in a text stands for anything."""
    words = NUMBER.split(" ".join(shown.split()).replace("-" * 3, "-"))
    pattern = f"({NUMBER.pattern})".join(re.escape(w).replace(r"\ \.\.\.", ".*").replace(r"\.\.\.", ".*") for w in words)
    match = re.fullmatch(pattern, " ".join(printed.split()))
    if "..." in shown:
        return match is not None
    numbers = NUMBER.findall(" ".join(shown.split()))
    return match is not None and all(
        math.isclose(float(a), float(b), rel_tol=0.1, abs_tol=0.5) for a, b in zip(numbers, match.groups(), strict=True)
    )


def _generator() -> Any:
    spec = importlib.util.spec_from_file_location("npukit_docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", _generator().PAGES)
def test_generated_page_is_current(name: str) -> None:
    """The committed reference pages are what docs/generate.py writes from today's code."""
    written = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert written == _generator().PAGES[name]().rstrip("\n") + "\n", "run: python docs/generate.py"


def test_links_between_pages_lead_somewhere() -> None:
    """Every relative link of a page names a file that exists."""
    link = re.compile(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)")
    found = ((page, target) for page in DOCS.rglob("*.md") for target in link.findall(page.read_text(encoding="utf-8")))
    broken = [f"{page.relative_to(DOCS)}: {target}" for page, target in found if not (page.parent / target).is_file()]
    assert not broken


def test_navigation_lists_every_page() -> None:
    """mkdocs.yml lists all pages and no other."""
    listed = set(re.findall(r"[\w/-]+\.md", (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")}
