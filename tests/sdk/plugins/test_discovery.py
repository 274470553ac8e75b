"""Every plugin is found once, in one place, whatever it does when it is imported."""

from __future__ import annotations

import ast
import importlib.metadata
from pathlib import Path
from typing import Any

import pytest

from npukit.errors import ModelError, PluginError
from npukit.events import Event
from npukit.plugins import KNOWN, Registry, known
from npukit.plugins.discovery import discover

HOOK = "from npukit.plugins import hookimpl\n"


def write(folder: Path, name: str, body: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(HOOK + body, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "body",
    [
        "raise SystemExit(0)\n",
        "import sys; sys.exit('bye')\n",
        "raise GeneratorExit\n",
        "class Own(BaseException): pass\nraise Own\n",
    ],
)
def test_whatever_a_plugin_raises_is_contained(body: str, tmp_path: Path) -> None:
    """Exceptions that are no Exception, at import or in a hook, break only the plugin that raises them."""
    hooked = "@hookimpl\ndef register_backends():\n" + "".join(f"    {line}\n" for line in body.splitlines())
    files = [write(tmp_path, "importing", body), write(tmp_path, "hooking", hooked)]
    registry = Registry.load(files)
    broken = {s.name: s.cause for s in registry.statuses() if s.state == "broken"}
    assert broken.keys() == {"importing", "hooking"}
    assert all(cause for cause in broken.values())
    assert registry.resolve("htp")[0].name == "htp"
    with pytest.raises(PluginError):
        registry.resolve("hooking")


def test_ctrl_c_is_not_contained(tmp_path: Path) -> None:
    """The user who interrupts a slow import is obeyed."""
    with pytest.raises(KeyboardInterrupt):
        discover([write(tmp_path, "slow", "raise KeyboardInterrupt\n")])


def test_a_file_with_the_name_of_an_installed_plugin(tmp_path: Path) -> None:
    """The installed one stays as it was; the file is broken, and says why."""
    registry = Registry.load([write(tmp_path, "htp", "")])
    ok, broken = (s for s in registry.statuses() if s.name == "htp")
    assert (ok.state, broken.state) == ("ok", "broken")
    assert "an installed plugin is called 'htp'" in broken.cause
    assert registry.resolve("htp")[0].name == "htp"


def test_a_file_given_twice_is_one_plugin(tmp_path: Path) -> None:
    """--plugin f.py --plugin f.py is no conflict."""
    path = write(tmp_path, "mine", "")
    assert [s.state for s in Registry.load([path, str(path)]).statuses() if s.name == "mine"] == ["ok"]


def test_classes_in_a_file_know_their_module(tmp_path: Path) -> None:
    """A dataclass with postponed annotations, which looks its module up, works in a plugin file."""
    path = tmp_path / "typed.py"
    path.write_text("from __future__ import annotations\nimport dataclasses\n\n@dataclasses.dataclass\nclass A:\n    x: int\n")
    (found,) = (one for one in discover([path]) if one.name == "typed")
    assert found.cause == ""


def test_a_name_that_is_taken_is_broken_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two distributions that claim one name: the one that npukit knows wins, whatever the order, and the other is listed."""
    (real,) = importlib.metadata.entry_points(group="npukit", name="cpu")
    claimed = importlib.metadata.EntryPoint("cpu", "nowhere", "npukit")
    early = importlib.metadata.EntryPoint("aaa", "json", "npukit")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [early, claimed, real])
    statuses = Registry.load().statuses()
    assert [(s.name, s.state) for s in statuses] == [("cpu", "ok"), ("aaa", "ok"), ("cpu", "broken")]
    assert "npukit-cpu has a plugin called 'cpu'" in statuses[2].cause


def test_a_hook_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """A misspelt hook breaks its plugin instead of never being called; one that is marked as optional does not."""
    typo = write(tmp_path, "typo", "@hookimpl\ndef register_backend():\n    return []\n")
    modern = write(tmp_path, "modern", "@hookimpl(optionalhook=True)\ndef of_a_newer_npukit():\n    return []\n")
    statuses = {s.name: s for s in Registry.load([typo, modern]).statuses()}
    assert "there is no hook 'register_backend' (did you mean 'register_backends'?)" in statuses["typo"].cause
    assert statuses["modern"].state == "ok"


@pytest.mark.parametrize("body", ["raise SystemExit(0)", "return 1 / 0"])
def test_a_hook_that_fails_later_names_its_plugin(body: str, tmp_path: Path) -> None:
    """What load_model and track_event raise becomes an error with the plugin's name; errors of npukit stay as they are."""
    hooks = f"@hookimpl\ndef load_model(source):\n    {body}\n@hookimpl\ndef track_event(event):\n    {body}\n"
    registry = Registry.load([write(tmp_path, "late", hooks)])
    with pytest.raises(PluginError, match=r"plugin 'late' fails in load_model: (SystemExit|ZeroDivisionError)"):
        registry.load_model("x")
    with pytest.raises(PluginError, match=r"plugin 'late' fails in track_event: (SystemExit|ZeroDivisionError)"):
        registry.track(Event("calibrate", 1, 1))
    ours = "from npukit.errors import ModelError\n@hookimpl\ndef load_model(source):\n    raise ModelError('mine')\n"
    with pytest.raises(ModelError, match=r"^mine$"):
        Registry.load([write(tmp_path, "own", ours)]).load_model("x")


def test_one_place_walks_entry_points() -> None:
    """Nothing else in npukit reads entry points."""
    source = Path(known.__file__).parents[1]
    readers = [p.name for p in source.rglob("*.py") if "entry_points(" in p.read_text(encoding="utf-8")]
    assert readers == ["discovery.py"]


def test_what_is_known_of_plugins_is_true() -> None:
    """known.py imports nothing, and says of the plugins of this repository what they say of themselves."""
    tree = ast.walk(ast.parse(Path(known.__file__).read_text(encoding="utf-8")))
    assert not [node for node in tree if isinstance(node, (ast.Import, ast.ImportFrom))]
    registry = Registry.load()
    mine = [s for s in registry.statuses() if s.name in KNOWN]
    assert {s.name: f"pip install {s.distribution}" for s in mine} == KNOWN
    assert {name: s.name for s in mine for name in s.optimizers} == known.OPTIMIZERS
    assert {*known.CAPABILITIES.values(), *known.READERS.values()} <= set(KNOWN)
    profiled: Any = known.CAPABILITIES["profile"]
    assert registry.resolve(profiled)[0].name == profiled
    assert registry.resolve(known.DEFAULT_BACKEND)[0].name == known.DEFAULT_BACKEND
    backend, soc = registry.resolve(known.REFERENCE)
    assert f"{backend.name}:{soc.name}" == known.REFERENCE


def test_a_broken_plugin_hears_nothing(tmp_path: Path) -> None:
    """A plugin whose registration failed is out: its other hooks are not called."""
    heard = tmp_path / "heard"
    body = (
        "@hookimpl\ndef register_backends():\n    return 7\n"
        f"@hookimpl\ndef track_event(event):\n    open({str(heard)!r}, 'w').close()\n"
    )
    Registry.load([write(tmp_path, "deaf", body)]).track(Event("calibrate", 1, 1))
    assert not heard.exists()
