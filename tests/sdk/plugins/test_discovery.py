"""Every plugin is found once, in one place, whatever it does when it is imported."""

from __future__ import annotations

import ast
import importlib.metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from npukit.errors import PluginError
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


def test_entry_points_of_one_name_are_one_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two distributions that claim one name give one plugin: the first that is found."""
    points = [importlib.metadata.EntryPoint("twice", "json", "npukit"), importlib.metadata.EntryPoint("twice", "nowhere", "npukit")]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: points)
    (found,) = discover()
    assert isinstance(found.plugin, ModuleType)
    assert found.plugin.__name__ == "json"


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
