"""Plugins are found, guarded and resolved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npukit as nk
from npukit.errors import PluginError, UsageError
from npukit.events import Event
from npukit.graph import Graph, Node, make_graph
from npukit.plugins import Registry, hookimpl


def plugin_file(folder: Path, body: str) -> Path:
    path = folder / "mine.py"
    path.write_text("from npukit.plugins import hookimpl\n" + body)
    return path


def test_installed_plugins() -> None:
    """The backends of this repository are found through their entry points."""
    assert {b.name for b in Registry.load().backends()} == {"cpu", "htp", "qnn"}


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("import no_such_module\n", "no_such_module"),
        ("@hookimpl\ndef register_backends():\n    raise ValueError('boom')\n", "boom"),
        ("@hookimpl\ndef register_backends():\n    return 7\n", "int"),
        ("syntax error\n", "SyntaxError"),
        ("from npukit_cpu.plugin import register_backends\n", "already registered"),
    ],
)
def test_broken_plugin_stops_nobody(tmp_path: Path, body: str, cause: str) -> None:
    """A broken plugin is listed with its cause, naming it raises that cause, and the others work."""
    registry = Registry.load([plugin_file(tmp_path, body)])
    status = next(s for s in registry.statuses() if s.name == "mine")
    assert status.state == "broken"
    assert cause in status.cause
    with pytest.raises(PluginError, match=cause):
        registry.resolve("mine")
    assert registry.resolve("htp")[0].name == "htp"


def test_missing_plugin_file(tmp_path: Path) -> None:
    """A plugin file that is not there is a usage error at once."""
    with pytest.raises(UsageError, match=r"none\.py"):
        Registry.load([tmp_path / "none.py"])


def test_resolve(tmp_path: Path) -> None:
    """One selector names backend and SoC; contradictions and typos are refused."""
    registry = Registry.load()
    assert registry.resolve("HTP:sm8650")[1].name == "SM8650"
    assert registry.resolve("htp", soc="v79")[1].arch == "v79"
    (tmp_path / "s.yaml").write_text("- {name: NEW, arch: v99}\n")
    assert registry.resolve("htp:new", soc_file=tmp_path / "s.yaml")[1].arch == "v99"
    backend = registry.resolve("htp")[0]
    assert registry.target(backend, soc="new", soc_file=tmp_path / "s.yaml").soc.arch == "v99"
    with pytest.raises(UsageError, match="two SoCs"):
        registry.resolve("htp:sm8650", soc="sm8750")
    with pytest.raises(UsageError, match="did you mean 'htp'"):
        registry.resolve("hpt")
    with pytest.raises(UsageError, match=r"none\.yaml"):
        registry.resolve("htp", soc_file=tmp_path / "none.yaml")


def test_load_model_and_events() -> None:
    """A plugin may read models of its own, and hears about progress."""
    graph = make_graph([Node("Relu", "r", ("x",), ("y",))], {"x": ("float32", (1, 4))}, ["y"])
    heard: list[Any] = []

    class Plugin:
        @hookimpl
        def load_model(self, source: Any) -> Graph | None:
            return graph if str(source) == "my.model" else None

        @hookimpl
        def track_event(self, event: Event) -> None:
            heard.append(event)

    registry = Registry.load()
    registry.add("mine", Plugin())
    q = nk.quantize("my.model", backend="htp", data=[{"x": np.ones((1, 4), np.float32)}], registry=registry)
    assert [n.op for n in q.graph.nodes] == ["Relu"]
    assert [e.stage for e in heard] == ["calibrate"]
