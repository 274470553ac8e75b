"""Plugins are found, guarded and resolved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import npukit as nk
from npukit.errors import PluginError, UsageError
from npukit.events import Event
from npukit.graph import Graph, Node, make_graph
from npukit.plugins import Registry, hookimpl
from npukit.quantization import read_source


def plugin_file(folder: Path, body: str) -> Path:
    path = folder / "mine.py"
    path.write_text("from npukit.plugins import hookimpl\n" + body)
    return path


def test_installed_plugins() -> None:
    """The backends of this repository are found through their entry points."""
    assert {b.name for b in Registry.load().backends()} == {"aic", "cpu", "htp", "qnn"}


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


def test_load_model_reads_objects() -> None:
    """A plugin may read any object, with what the request says of it; an example that nobody needs is refused."""

    class Program:
        """A model of some library."""

    class Plugin:
        @hookimpl
        def load_model(self, source: Any, example: Any, symbols: Any, batch: int | None) -> Graph | None:
            if not isinstance(source, Program):
                return None
            (x,) = example
            nodes = [Node("QuantizeLinear", "q", ("x", "s"), ("c",)), Node("DequantizeLinear", "d", ("c", "s"), ("y",))]
            return make_graph(nodes, {"x": ("float32", (batch, symbols["N"], *x.shape))}, ["y"], {"s": np.float32(0.5)})

    registry = Registry.load()
    registry.add("mine", Plugin())
    request = nk.Request(Program(), symbols={"N": 3}, batch=2)
    source = read_source(request, example=(np.zeros(4),), registry=registry)
    assert source.graph.tensor("x").shape == (2, 3, 4)
    assert source.encodings["x"].dtype == "uint8"
    assert nk.check(attrs.evolve(request, example=(np.zeros(4),)), registry=registry).verdict == "accepted"
    assert nk.check(request, example=(np.zeros(4),), registry=registry).verdict == "accepted"
    for other in (source, source.graph, b"", "model.onnx"):
        with pytest.raises(UsageError, match="is not traced"):
            read_source(other, example=(np.zeros(4),), registry=registry)
    with pytest.raises(UsageError, match="a model is a path, bytes, Graph, Package or Quantized, not Program"):
        read_source(request)


def test_models_of_a_plugin_that_is_not_here(tmp_path: Path) -> None:
    """What would read them is named, for a file by its suffix, for an object by the library of its class."""
    (tmp_path / "model.pt2").write_bytes(b"PK\x03\x04")
    module = type("Linear", (type("Module", (), {"__module__": "torch.nn.modules.module"}),), {"__module__": "mine"})
    for source in (tmp_path / "model.pt2", str(tmp_path / "model.pt2"), module()):
        with pytest.raises(PluginError, match="is read by plugin 'torch'") as caught:
            read_source(source, registry=Registry())
        assert caught.value.hint == "pip install npukit-torch"


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
