"""Optimizers go on where a run was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import npukit as nk
from npukit.encoding import Array
from npukit.graph import Graph, Node, make_graph
from npukit.quantization import Quantized
from npukit_aimet.adaround import AdaRound
from npukit_aimet.amp.groups import Candidate
from npukit_aimet.amp.optimizer import Amp
from npukit_aimet.amp.search import Memory
from npukit_aimet.kept import Kept, fingerprint
from npukit_aimet.walk import Visit

_KILLED = """
import os, signal, sys
from pathlib import Path
from test_killed import model, optimizer

def kill(event):
    if event.stage == sys.argv[2] and event.done == 2:
        os.kill(os.getpid(), signal.SIGKILL)

model(optimizer(sys.argv[1], Path(sys.argv[3])), on_event=kill)
"""


def network() -> Graph:
    """Four products in a row, each with a Relu."""
    rng = np.random.default_rng(0)
    nodes, constants, last = [], {}, "x"
    for index in range(4):
        nodes.append(Node("MatMul", f"m{index}", (last, f"w{index}"), (f"t{index}",)))
        nodes.append(Node("Relu", f"r{index}", (f"t{index}",), (f"a{index}",)))
        constants[f"w{index}"], last = rng.standard_normal((12, 12)).astype(np.float32), f"a{index}"
    return make_graph(nodes, {"x": ("float32", (4, 12))}, [last], constants)


def optimizer(name: str, folder: Path | None) -> Any:
    if name == "amp":
        candidates = (Candidate("uint16", "int8"), Candidate("uint8", "int8"))
        return Amp(candidates=candidates, results_dir=folder, workers=1)
    return AdaRound(results_dir=folder)


def model(chosen: Any, **more: Any) -> Quantized:
    data = [{"x": np.random.default_rng(i).standard_normal((4, 12)).astype(np.float32)} for i in range(16)]
    weights = "int4" if isinstance(chosen, AdaRound) else "int8"
    return nk.quantize(network(), backend="cpu", data=data, options=nk.Options(weights=weights), optimize=[chosen], **more)


def killed(name: str, stage: str, folder: Path) -> None:
    """Run an optimizer in a process that is killed when two steps of a stage are done."""
    words = [sys.executable, "-c", _KILLED, name, stage, str(folder)]
    done = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


def weights(found: Quantized) -> list[Array]:
    graph = found.package.graph
    return [np.asarray(graph.tensor(f"w{i}").data) for i in range(4)]


def test_adaround_goes_on_after_kill_9(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers that were done are not solved again, the others are, and the result is that of a run in one go."""
    killed("adaround", "adaround", tmp_path)
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 2
    solved: list[str] = []
    choose = AdaRound._choose

    def counted(self: AdaRound, visit: Visit, *rest: Any) -> Any:
        solved.append(visit.layer.weight)
        return choose(self, visit, *rest)

    monkeypatch.setattr(AdaRound, "_choose", counted)
    resumed = model(optimizer("adaround", tmp_path))
    assert solved == ["w2", "w3"]
    assert all(map(np.array_equal, weights(resumed), weights(model(optimizer("adaround", None)))))
    solved.clear()
    kept[0].write_bytes(b"PK\x03\x04 cut short")
    model(optimizer("adaround", tmp_path))
    assert len(solved) == 1
    solved.clear()
    model(attrs.evolve(optimizer("adaround", tmp_path), refit=False, solver="relaxation"))
    assert len(solved) == 4


def test_the_folder_is_a_setting(tmp_path: Path) -> None:
    """``results_dir`` of the configuration file is where layers are kept."""
    found = AdaRound().configure({"aimet_quantizer": {"adaround": {"results_dir": str(tmp_path / "kept")}}}, tmp_path)
    model(found)
    assert len(list((tmp_path / "kept").iterdir())) == 4


def test_amp_goes_on_after_kill_9(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured is not measured again, and the result is that of a run in one go."""
    killed("amp", "amp: sensitivity", tmp_path)
    before = (tmp_path / "measured.jsonl").read_text().splitlines()
    assert len(before) > 2
    put: list[str] = []
    remember = Memory.put
    monkeypatch.setattr(Memory, "put", lambda self, what, score: put.append(what) or remember(self, what, score))
    resumed = model(optimizer("amp", tmp_path))
    lines = (tmp_path / "measured.jsonl").read_text().splitlines()
    assert lines[: len(before)] == before
    assert len(lines) == len(before) + len(put)
    whole = model(optimizer("amp", tmp_path / "other"))
    assert {n: e.dtype for n, e in resumed.encodings.items()} == {n: e.dtype for n, e in whole.encodings.items()}
    assert (tmp_path / "accuracy_list.json").read_bytes() == (tmp_path / "other" / "accuracy_list.json").read_bytes()


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path: Path) -> None:
    """The next score begins a line of its own."""
    path = tmp_path / "measured.jsonl"
    Memory(path, "key").put("first", 1.0)
    path.write_bytes(path.read_bytes() + b'{"key": "key", "wh\xc3')
    Memory(path, "key").put("second", 2.0)
    memory = Memory(path, "key")
    assert (memory.get("first"), memory.get("second")) == (1.0, 2.0)


def test_fingerprints_tell_values_types_and_shapes_apart(tmp_path: Path) -> None:
    """Equal parts give equal keys; what differs in anything does not."""
    array = np.arange(6, dtype=np.float32)
    parts = [(array,), (array.reshape(2, 3),), (array.astype(np.float64),), (array + 1,), (array, None), (array.reshape(2, 3).T,)]
    assert len({fingerprint(*part) for part in parts}) == len(parts)
    assert fingerprint(array, 1) == fingerprint(array.copy(), 1)
    Kept(None).put("key", {"a": array})
    assert Kept(None).get("key", "a") is None
