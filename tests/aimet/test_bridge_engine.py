"""Engine ``aimet``: what crosses to an AIMET environment and back, and what is said when the environment is no good.

The fast tests play the environment with small executables. One of them answers with what AIMET 2.42.0 made of the same job; that
recording is made anew by ``AIMET_ENV_PYTHON=... python tests/aimet/test_bridge_engine.py``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from npukit.cli import main
from npukit.demo import DATA, MODEL
from npukit.encoding import Array, Encoding
from npukit.errors import PluginError, UsageError
from npukit.events import Event
from npukit.graph import Graph, Node, make_graph, save, serialize
from npukit.quantization import Options, Quantized, Request, quantize
from npukit_aimet.bridge import process
from npukit_aimet.bridge.environment import parse_version, too_old
from npukit_aimet.bridge.layers import choose_layers
from npukit_aimet.bridge.optimizers import AimetAdaround, AimetCle, AimetSeqMse

RECORDING = Path(__file__).with_name("test_bridge_recording.json")
REAL = os.environ.get("AIMET_ENV_PYTHON", "")
OPTIMIZERS = {"adaround": AimetAdaround(iterations=300), "seq-mse": AimetSeqMse(), "cle": AimetCle()}


def network(bias: float = 0.1, batch: int | str = 1) -> Graph:
    """Conv, depthwise Conv, Conv and Gemm with a few hundred parameters."""
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> Array:
        found: Array = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        return found

    nodes = [
        Node("Conv", "conv 1", ("x", "w1", "b1"), ("c1",), {"pads": (1, 1, 1, 1)}),
        Node("Relu", "relu 1", ("c1",), ("r1",)),
        Node("Conv", "depthwise", ("r1", "w2", "b2"), ("c2",), {"pads": (1, 1, 1, 1), "group": 6}),
        Node("Relu", "relu 2", ("c2",), ("r2",)),
        Node("Conv", "conv 3", ("r2", "w3", "b3"), ("c3",)),
        Node("Relu", "relu 3", ("c3",), ("r3",)),
        Node("GlobalAveragePool", "pool", ("r3",), ("p",)),
        Node("Flatten", "flat", ("p",), ("f",)),
        Node("Gemm", "gemm", ("f", "w4", "b4"), ("y",), {"transB": 1}),
    ]
    constants = {"w1": weights(6, 2, 3, 3), "w2": weights(6, 1, 3, 3), "w3": weights(8, 6, 1, 1), "w4": weights(3, 8)}
    constants |= {f"b{i}": np.float32(bias) * weights(constants[f"w{i}"].shape[0]) for i in range(1, 5)}
    return make_graph(nodes, {"x": ("float32", (batch, 2, 8, 8))}, ["y"], constants)


def samples(count: int = 8, seed: int = 1) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 2, 8, 8)).astype(np.float32)}


def run_task(task: str, **changes: Any) -> Quantized:
    """The network with 4-bit weights after one optimizer."""
    given = {"backend": "htp", "data": samples(), "options": Options(weights="int4"), "optimize": [OPTIMIZERS[task]], **changes}
    return quantize(Request(network(), overrides=given.pop("overrides", None)), **given)


def float_run(graph: Graph, feeds: dict[str, Array]) -> Array:
    session = ort.InferenceSession(serialize(graph), providers=["CPUExecutionProvider"])
    found: Array = np.concatenate([session.run(None, {"x": one[None]})[0] for one in feeds["x"]])
    return found


def codes_of(graph: Graph, name: str, encoding: Encoding) -> Array:
    """The constant in steps of its symmetric per-channel grid, by hand."""
    data = graph.tensor(name).data
    assert data is not None
    assert encoding.axis is not None
    shape = [-1 if i == encoding.axis else 1 for i in range(data.ndim)]
    found: Array = data.astype(np.float64) / encoding.steps.astype(np.float64).reshape(shape)
    return found


def recording() -> Any:
    return json.loads(RECORDING.read_text(encoding="utf-8"))


# -------------------------------------------------------------------------------------------------- stand-ins for an environment

Player = Callable[[str], Path]
_HEAD = """\
#!{python}
import json, os, shutil, signal, subprocess, sys, time
import numpy as np
script, path = sys.argv[1:3]
def say(**message):
    print(json.dumps(message), flush=True)
READY = dict(kind="ready", version="2.42.0", can=["adaround", "cle", "seq-mse"])
if path != "--probe":
    job = json.load(open(path))
"""
_PLAY = """\
recorded = json.load(open({recording!r}))["tasks"][job["task"]]
if job != recorded["job"]:
    sys.exit(f"another job was recorded: {{job}}")
def grids(document):
    return {{e["name"]: (e["enc_type"], e["bw"], e["is_sym"], e["offset"], np.round(e["scale"], 6).tolist()) for e in document}}
if grids(json.load(open(job["encodings"]))["param_encodings"]) != grids(recorded["grids"]):
    sys.exit("other grids were recorded")
np.savez(job["constants_out"], **{{str(i): np.array(c, np.float32) for i, c in enumerate(recorded["constants"])}})
with open(job["encodings_out"], "w") as file:
    json.dump(recorded["encodings"], file)
for message in recorded["messages"]:
    say(**message)
"""
PLAY = _PLAY.format(recording=str(RECORDING))


@pytest.fixture
def player(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Player:
    """Make an executable that plays the Python of an AIMET environment, and let AIMET_ENV_PYTHON name it."""

    def make(body: str) -> Path:
        path = tmp_path / "env" / "python"
        path.parent.mkdir(exist_ok=True)
        path.write_text(_HEAD.format(python=sys.executable) + body, encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("AIMET_ENV_PYTHON", str(path))
        return path

    return make


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders go; nothing may be left there afterwards."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir()), "something was left behind"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_GRACE", 1.0)


# ------------------------------------------------------------------------------------------------------------ what AIMET answers


def test_adaround_of_the_recording_goes_through_the_pipeline(player: Player, temporary: Path) -> None:
    """The weights end on their grids, between floor and ceiling of the float weights, rounded as AIMET did, on the same scales."""
    player(PLAY)
    before, after = run_task("adaround", optimize=()), run_task("adaround")
    moved = 0
    for name, recorded in zip(["w1", "w2", "w3", "w4"], recording()["tasks"]["adaround"]["constants"], strict=True):
        grid = after.encodings[name]
        assert grid.origin == "optimizer:adaround"
        assert np.array_equal(grid.steps, before.encodings[name].steps)
        exact, got = codes_of(before.graph, name, grid), codes_of(after.graph, name, grid)
        assert np.abs(got - np.rint(got)).max() < 1e-5
        assert np.all((np.rint(got) == np.floor(exact)) | (np.rint(got) == np.ceil(exact)))
        soft = np.array(recorded).reshape(exact.shape) / before.graph.tensor(name).data * exact
        assert np.array_equal(np.rint(got), np.rint(soft))
        moved += int((np.rint(got) != np.rint(exact)).sum())
    assert moved > 0
    assert "adaround (AIMET 2.42.0): 4 layers" in after.report.notes
    assert after.report.origins["optimizer:adaround"] == 4


def test_seq_mse_of_the_recording_decides_scales_only(player: Player, temporary: Path) -> None:
    """Scales are those that AIMET chose, a multiple of 1/20 of the old ones; no weight changes."""
    player(PLAY)
    before, after = run_task("adaround", optimize=()), run_task("seq-mse")
    for entry in recording()["tasks"]["seq-mse"]["encodings"]["param_encodings"]:
        grid = after.encodings[entry["name"]]
        assert grid.origin == "optimizer:seq-mse"
        assert grid.dtype == "int4"
        assert np.array_equal(grid.steps, np.array(entry["scale"], np.float32))
        parts = 20 * grid.steps / before.encodings[entry["name"]].steps
        assert np.allclose(parts, np.rint(parts), atol=1e-3)
        assert np.array_equal(after.graph.tensor(entry["name"]).data, before.graph.tensor(entry["name"]).data)
    assert any(not after.encodings[n].same_grid(before.encodings[n]) for n in ("w1", "w2", "w3", "w4"))


def test_cle_of_the_recording_keeps_the_function(player: Player, temporary: Path) -> None:
    """The weights change, the float network does not, and no encoding is decided."""
    player(PLAY)
    before, after = run_task("cle", optimize=()), run_task("cle")
    assert not np.allclose(after.graph.tensor("w1").data, before.graph.tensor("w1").data)
    assert np.allclose(float_run(after.graph, samples(seed=2)), float_run(network(), samples(seed=2)), atol=1e-5)
    assert not any(origin.startswith("optimizer") for origin in after.report.origins)
    assert "cle (AIMET 2.42.0): 3 of 3 convolutions equalized" in after.report.notes


def test_progress_comes_as_events(player: Player) -> None:
    """One event a layer, never more than the total, and the last one says that all are done."""
    player(PLAY)
    events: list[Event] = []
    run_task("adaround", on_event=events.append)
    own = [e for e in events if e.stage == "adaround (AIMET)"]
    assert [(e.done, e.total) for e in own] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert [e.message for e in own] == ["conv 1", "depthwise", "conv 3", "gemm", ""]


def test_the_job_is_json_onnx_and_plain_arrays(player: Player, tmp_path: Path) -> None:
    """A reader without npukit and without pickle gets the float model, named nodes, the samples, the grids and the settings."""
    copy = tmp_path / "copy"
    player(f"shutil.copytree('.', {str(copy)!r})\n" + PLAY)
    graph = network()
    with pytest.raises(PluginError):  # not the job of the recording
        run_task("adaround", optimize=[AimetAdaround(num_batches=3, iterations=7)], options=Options(weights="int4", seed=5))
    job = json.loads((copy / "job.json").read_text())
    assert (job["task"], job["count"], job["inputs"], job["seed"]) == ("adaround", 3, ["x"], 5)
    assert job["settings"] == {"iterations": 7}
    assert job["nodes"] == ["conv 1", "depthwise", "conv 3", "gemm"]
    model = onnx.load(copy / job["model"])
    assert all(node.name for node in model.graph.node)
    assert all(any(a.name == "group" for a in node.attribute) for node in model.graph.node if node.op_type == "Conv")
    got = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert np.array_equal(got["w1"], graph.tensor("w1").data)
    with np.load(copy / job["samples"], allow_pickle=False) as archive:
        assert sorted(archive.files) == ["0.0", "1.0", "2.0"]
        assert np.array_equal(archive["2.0"], samples()["x"][2:3])
    grids = json.loads((copy / job["encodings"]).read_text())
    assert grids["version"] == "1.0.0"
    assert {(e["name"], e["bw"], e["is_sym"], e["enc_type"]) for e in grids["param_encodings"]} == {
        (name, 4, True, "PER_CHANNEL") for name in ("w1", "w2", "w3", "w4")
    }


def test_the_samples_come_in_the_batches_of_npukit(player: Player, tmp_path: Path) -> None:
    """Where the batch is open, AIMET gets what npukit's own walk runs: several samples at once, an eighth apart."""
    copy = tmp_path / "copy"
    player(f"shutil.copytree('.', {str(copy)!r})\n" + PLAY)
    with pytest.raises(PluginError):  # not the job of the recording
        quantize(network(batch="n"), "htp", data=samples(20), options=Options(weights="int4"), optimize=[AimetAdaround()])
    with np.load(copy / "samples.npz", allow_pickle=False) as archive:
        batches = [archive[f"{index}.0"] for index in range(len(archive.files))]
    assert [len(batch) for batch in batches] == [2] * 10
    assert np.array_equal(np.concatenate(batches), samples(20)["x"])


def test_the_environment_sees_nothing_of_this_python(player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONPATH and PYTHONHOME stay here, and temporary files go into the folder that is removed."""
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    player("say(kind='error', message=str([os.environ.get('PYTHONPATH'), os.environ['TMPDIR'] == os.getcwd()]))")
    with pytest.raises(PluginError, match=re.escape("[None, True]")):
        run_task("adaround")


# -------------------------------------------------------------------------------------------------------- environments that fail


@pytest.mark.parametrize("task", OPTIMIZERS)
def test_no_environment_says_how_to_get_one(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AIMET_ENV_PYTHON every optimizer names the command."""
    monkeypatch.delenv("AIMET_ENV_PYTHON", raising=False)
    with pytest.raises(PluginError, match="AIMET_ENV_PYTHON is not set") as caught:
        run_task(task)
    assert "npukit aimet setup-env --env_path DIR" in caught.value.hint


def test_a_missing_or_plain_file_is_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that does not exist, a folder, and a file that cannot be executed."""
    plain = tmp_path / "plain"
    plain.write_text("")
    for path in (tmp_path / "missing", tmp_path, plain):
        monkeypatch.setenv("AIMET_ENV_PYTHON", str(path))
        with pytest.raises(PluginError, match="no executable file") as caught:
            run_task("adaround")
        assert "setup-env" in caught.value.hint


CASES = {
    "exception": (
        "say(**READY)\nsay(kind='error', message='RuntimeError: out of\\nshape')",
        "AIMET 2.42.0 failed: RuntimeError: out of shape",
    ),
    "crash": (
        "say(**READY)\nprint('last words', file=sys.stderr)\nsys.exit(3)",
        "AIMET 2.42.0 ended with exit code 3; the end of its log: last words",
    ),
    "killed": (
        "say(**READY)\nos.kill(os.getpid(), signal.SIGKILL)",
        "AIMET 2.42.0 was killed by signal 9 (out of memory?); the end of its log: empty",
    ),
    "segfault": ("say(**READY)\nos.kill(os.getpid(), signal.SIGSEGV)", "AIMET 2.42.0 was killed by signal 11; "),
    "quiet end": ("say(**READY)", "AIMET 2.42.0 ended with exit code 0; the end of its log: empty"),
    "other program": ("print('hello')", "is no AIMET environment: it ended with exit code 0 and said: hello"),
    "garbage": ("os.write(1, bytes(range(256)) * 9000)", "is no AIMET environment: it ended with exit code 0 and said: "),
    "other JSON": ("print([1]); print({}); print('{\"kind\": 5}')", "is no AIMET environment"),
    "half a message": ("say(kind='ready')", 'answered nonsense: {"kind": "ready"}'),
    "odd numbers": ("say(**READY)\nsay(kind='progress', done=[], total=1, message='')", "answered nonsense"),
    "no AIMET": (
        "say(kind='error', message='the environment has no aimet_onnx')",
        "cannot load AIMET: the environment has no aimet_onnx",
    ),
    "too old": ("say(**{**READY, 'version': '1.32.4'})", "has aimet_onnx 1.32.4, the bridge needs 1.33.0 or newer"),
    "no version": ("say(**{**READY, 'version': 'x'})", "has aimet_onnx x, the bridge needs 1.33.0 or newer"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_failing_environment_is_one_clear_line(case: str, player: Player, temporary: Path) -> None:
    """Crash, kill, garbage and old versions end in a PluginError of one line; no folder is left."""
    body, expected = CASES[case]
    player(body + "\n")
    with pytest.raises(PluginError) as caught:
        run_task("adaround")
    assert expected in caught.value.message
    assert "\n" not in str(caught.value)
    assert len(caught.value.message) < 1000


def test_a_file_that_is_no_program(player: Player) -> None:
    """An executable file that the system cannot start."""
    player("").write_bytes(b"\x00\x01\x02")
    with pytest.raises(PluginError, match="cannot start"):
        run_task("adaround")


# How long what hangs would hang: far longer than a busy machine takes for all the rest of a test.
NAP = 300
HANG = f"""\
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep({NAP})"
child = subprocess.Popen([sys.executable, "-c", stubborn])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open({{pids!r}}, "w").write(f"{{{{os.getpid()}}}} {{{{child.pid}}}}")
print("still thinking", file=sys.stderr, flush=True)
{{before}}
time.sleep({NAP})
"""


@pytest.mark.parametrize(
    ("before", "limits", "expected"),
    [
        ("", {"start_timeout": 5.0}, "hangs: no word from AIMET within 5 s; the end of its log: still thinking"),
        (
            "say(**READY)",
            {"start_timeout": 8.0, "timeout": 8.0},
            "AIMET 2.42.0 was stopped after 8 s, the time-out; the end of its log: still thinking",
        ),
    ],
    ids=["start", "work"],
)
@pytest.mark.slow
def test_a_hanging_environment_is_ended_with_its_children(
    before: str, limits: dict[str, float], expected: str, player: Player, temporary: Path, tmp_path: Path
) -> None:
    """Both time-outs end the process and its child, also when these ignore SIGTERM, and the message tells the end of the log."""
    pids = tmp_path / "pids"
    player(HANG.format(pids=str(pids), before=before))
    start = time.monotonic()
    with pytest.raises(PluginError) as caught:
        run_task("adaround", optimize=[AimetAdaround(**limits)])  # type: ignore[arg-type]
    assert limits["start_timeout"] <= time.monotonic() - start < NAP
    assert expected in caught.value.message
    for pid in pids.read_text().split():
        assert not _runs(int(pid)), f"process {pid} is still there"


def _runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    for _ in range(300):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.1)
    return True


def test_a_grandchild_that_holds_the_pipe_does_not_hang_us(player: Player) -> None:
    """The environment ends, its child keeps standard output open: that is the end of the answer all the same."""
    nap = f'subprocess.Popen([sys.executable, "-c", "import time; time.sleep({NAP})"])\n'
    player(PLAY + nap)
    start = time.monotonic()
    assert run_task("adaround").report.origins["optimizer:adaround"] == 4
    player("say(**READY)\n" + nap)
    with pytest.raises(PluginError, match="exit code 0"):
        run_task("adaround")
    assert time.monotonic() - start < NAP


# ------------------------------------------------------------------------------------------------------ answers that are no good

DONE = "say(kind='done')\n"
SPOILED = {
    "no constants": ("os.remove(job['constants_out'])", "answer is no good"),
    "no encodings": ("os.remove(job['encodings_out'])", "answer is no good"),
    "damaged": ("open(job['constants_out'], 'r+b').truncate(100)", "answer is no good"),
    "pickle": (
        "np.savez(job['constants_out'], **{'0': np.array([{}], object)})",
        "answer is no good: Object arrays cannot be loaded",
    ),
    "shape": (
        "np.savez(job['constants_out'], **{'0': np.zeros((2, 2), np.float32)})",
        "'w1' is float32 [2, 2], not float32 [6, 2, 3, 3]",
    ),
    "dtype": ("np.savez(job['constants_out'], **{'0': np.zeros((6, 2, 3, 3))})", "'w1' is float64 [6, 2, 3, 3], not"),
    "NaN": (
        "np.savez(job['constants_out'], **{'0': np.full((6, 2, 3, 3), np.nan, np.float32)})",
        "'w1' has values that are not finite",
    ),
    "too few": ("np.savez(job['constants_out'])", "answer is no good"),
    "not JSON": ("open(job['encodings_out'], 'w').write('{')", "answer is no good"),
    "other names": (
        "open(job['encodings_out'], 'w').write(json.dumps(recorded['encodings']).replace('w1', 'w9'))",
        "answer is no good",
    ),
    "too few encodings": (
        "recorded['encodings']['param_encodings'].pop()\njson.dump(recorded['encodings'], open(job['encodings_out'], 'w'))",
        "AIMET's answer has no encoding of 'w4'",
    ),
    "other grid": (
        "recorded['encodings']['param_encodings'][0]['scale'][0] *= 1.01\n"
        "json.dump(recorded['encodings'], open(job['encodings_out'], 'w'))",
        "rounded 'w1' to another grid",
    ),
    "no rounding": (
        "c = [np.array(c, np.float32) for c in recorded['constants']]\nc[1] = c[1] * 0\n"
        "np.savez(job['constants_out'], **{str(i): a for i, a in enumerate(c)})",
        "AIMET's weights 'w2' are no rounding of those it was given",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_answer_is_refused(case: str, player: Player, temporary: Path) -> None:
    """Results that are missing, damaged, pickled, of another form or of other weights never reach the package."""
    body, expected = SPOILED[case]
    # It is spoiled before the environment says that it is done.
    player(PLAY.replace("for message in recorded", "for message in [] and recorded") + f"say(**READY)\n{body}\n" + DONE)
    with pytest.raises(PluginError) as caught:
        run_task("adaround")
    assert expected in caught.value.message
    assert "\n" not in str(caught.value)


def test_seq_mse_of_another_width_is_refused(player: Player) -> None:
    """Grids of other bits than asked for."""
    spoil = "for e in recorded['encodings']['param_encodings']: e.update(bw=8, offset=[-128.0] * len(e['offset']))\n"
    player(PLAY.replace("np.savez", spoil + "np.savez"))
    with pytest.raises(PluginError, match="int8 channel where int4 channel was given"):
        run_task("seq-mse")


# ------------------------------------------------------------------------------------------------------------- the worker itself

STUB = """\
import runpy
site = {site!r}
sys.path.insert(0, site)
sys.argv = sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture
def stub(player: Player, tmp_path: Path) -> Callable[[str], None]:
    """An environment that runs the real worker with a module aimet_onnx of the given text."""

    def make(text: str | None) -> None:
        site = tmp_path / "site"
        site.mkdir(exist_ok=True)
        if text is not None:
            (site / "aimet_onnx.py").write_text(text, encoding="utf-8")
        player(STUB.format(site=str(site)))

    return make


STUBS = {
    "absent": (None, "cannot load AIMET: the environment has no aimet_onnx"),
    "needs torch": ("import no_such_torch", "cannot load AIMET: ModuleNotFoundError: No module named 'no_such_torch'"),
    "old": ("__version__ = '1.20.0'", "has aimet_onnx 1.20.0"),
    "without the function": ("__version__ = '1.40.0'", "AIMET 1.40.0 failed: AIMET 1.40.0 has no function for adaround"),
    "chatty": (
        'import os\nprint(\'{"kind": "error", "message": "noise"}\')\nos.system(\'echo noise\')\n__version__ = \'1.40.0\'',
        "has no function for adaround",
    ),
    "exits": ("import sys\nsys.exit('licence expired')", "said: licence expired"),
}


@pytest.mark.parametrize("case", STUBS)
def test_the_worker_says_what_is_wrong_with_its_aimet(case: str, stub: Callable[[str | None], None]) -> None:
    """The real worker.py with a missing, broken, old, chatty or partial AIMET."""
    text, expected = STUBS[case]
    stub(text)
    with pytest.raises(PluginError) as caught:
        run_task("adaround")
    assert expected in caught.value.message


# ---------------------------------------------------------------------------------------------------------------- smaller pieces


@pytest.mark.parametrize(
    ("text", "version", "old"),
    [
        ("1.33.0", (1, 33, 0), False),
        ("1.32.9", (1, 32, 9), True),
        ("2.42.0+cu121", (2, 42, 0), False),
        ("1.9", (1, 9, 0), True),
        ("2.0rc1", (2, 0, 0), False),
        ("", None, True),
        ("v2", None, True),
        ("10.0.0", (10, 0, 0), False),
    ],
)
def test_versions(text: str, version: tuple[int, int, int] | None, old: bool) -> None:
    """Versions are compared as numbers; what is none counts as too old."""
    assert parse_version(text) == version
    assert too_old(text) is old


def _layers(*nodes: Node, task: str = "adaround", **grids: Encoding) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((4, 4, 3, 3)).astype(np.float32), "g": rng.standard_normal((8, 8)).astype(np.float32)}
    constants = {name: data for name, data in constants.items() if any(name in n.inputs for n in nodes)}
    inputs: dict[str, Any] = {"x": ("float32", (1, 4, 9, 9)), "v": ("float32", (8, 8))}
    graph = make_graph(nodes, {n: s for n, s in inputs.items() if any(n in node.inputs for node in nodes)}, ["y"], constants)
    found = choose_layers(graph, {n: Encoding("int8", 0.1, symmetric=True) for n in constants} | grids, task)
    return [n.name for n in found.nodes], list(found.left)


@pytest.mark.parametrize(
    ("node", "task", "reason"),
    [
        (Node("Conv", "n", ("x", "w"), ("y",)), "adaround", ""),
        (Node("Conv", "n", ("x", "w"), ("y",), {"auto_pad": "VALID"}), "adaround", ""),
        (Node("Conv", "n", ("x", "w"), ("y",), {"auto_pad": "SAME_UPPER"}), "adaround", "auto_pad"),
        (Node("Conv", "n", ("x", "w"), ("y",), {"auto_pad": "SAME_UPPER"}), "seq-mse", ""),
        (Node("ConvTranspose", "n", ("x", "w"), ("y",)), "adaround", ""),
        (
            Node("ConvTranspose", "n", ("x", "w"), ("y",), {"strides": (2, 2), "output_padding": (1, 1)}),
            "adaround",
            "output_padding",
        ),
        (Node("ConvTranspose", "n", ("x", "w"), ("y",)), "seq-mse", "ConvTranspose"),
        (Node("Gemm", "n", ("v", "g"), ("y",)), "adaround", ""),
        (Node("Gemm", "n", ("v", "g"), ("y",), {"alpha": 2.0}), "adaround", "alpha"),
        (Node("Gemm", "n", ("v", "g"), ("y",), {"alpha": 2.0}), "seq-mse", ""),
        (Node("Gemm", "n", ("v", "g"), ("y",), {"transA": 1}), "adaround", "transA"),
        (Node("MatMul", "n", ("v", "g"), ("y",)), "seq-mse", ""),
    ],
)
def test_layers_that_aimet_gets_wrong_are_left_out(node: Node, task: str, reason: str) -> None:
    """A layer is left out, with its reason, exactly when AIMET would fail on it or optimize another function."""
    nodes, left = _layers(node, task=task)
    assert (nodes, len(left)) == ((["n"], 0) if not reason else ([], 1))
    assert not reason or (left[0].startswith("'n' (") and reason in left[0])


def test_shared_float_and_blockwise_weights_are_left_out() -> None:
    """A weight of two layers, one that stays float, and one with scales per block."""
    shared = (Node("MatMul", "a", ("v", "g"), ("m",)), Node("MatMul", "b", ("m", "g"), ("y",)))
    assert _layers(*shared) == ([], ["'a' (shared weight)", "'b' (shared weight)"])
    one = Node("MatMul", "a", ("v", "g"), ("y",))
    assert _layers(one, g=Encoding("float16")) == ([], [])
    blocks = Encoding("int4", np.ones((2, 8)), axis=0, block_size=4, symmetric=True)
    assert _layers(one, g=blocks) == ([], ["'a' (weight in blocks)"])


def test_no_layer_is_a_note_and_no_process(player: Player) -> None:
    """Nothing to round: the environment is not started, and the report says so."""
    player("raise SystemExit('must not be started')")
    graph = make_graph([Node("Relu", "r", ("x",), ("y",))], {"x": ("float32", (1, 4))}, ["y"])
    data = {"x": np.ones((2, 4), np.float32)}
    for optimizer in (AimetAdaround(), AimetSeqMse(), AimetCle()):
        report = quantize(graph, data=data, optimize=[optimizer]).report
        assert any(note.startswith(f"{optimizer.name} (AIMET): no ") for note in report.notes)


def test_cle_leaves_decided_tensors_alone(player: Player) -> None:
    """Scaling below an encoding that the user gave would break it: that is refused."""
    player(PLAY)
    for name in ("w1", "c1", "r2"):
        given = {name: Encoding("int8" if name == "w1" else "uint8", 0.1, symmetric=name == "w1")}
        with pytest.raises(UsageError, match=f"cle changes the range of '{name}'"):
            run_task("cle", overrides=given)


HALVE = """\
grids = json.load(open(job["encodings"]))
for entry in grids["param_encodings"]:
    entry["scale"] = [scale / 2 for scale in entry["scale"]]
json.dump(grids, open(job["encodings_out"], "w"))
import onnx
found = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(job["model"]).graph.initializer}
np.savez(job["constants_out"], **{str(i): found[name] for i, name in enumerate(job["parameters"])})
say(**READY)
say(kind="done")
"""


def test_seq_mse_keeps_biases_inside_int32(player: Player) -> None:
    """AIMET halves all scales; where the bias would then leave half of the int32 range, it shrinks less."""
    player(HALVE)
    large = network(bias=150.0)
    options = Options(weights="int8", activations="uint16")
    before = quantize(large, backend="cpu", data=samples(), options=options)
    after = quantize(large, backend="cpu", data=samples(), options=options, optimize=[AimetSeqMse()])
    ratios = after.encodings["w1"].steps / before.encodings["w1"].steps
    assert (ratios.min(), ratios.max()) == (0.5, 1.0)
    bias, grid = large.tensor("b1").data, after.encodings["b1"]
    assert bias is not None
    assert grid.dtype == "int32"
    assert np.abs(bias / grid.steps.astype(np.float64)).max() <= 2.0**30 * 1.001


TIED = f"""\
import os, time
__version__ = "2.42.0"
open({{pid!r}}, "w").write(str(os.getpid()))
time.sleep({NAP})
"""


def test_the_worker_does_not_outlive_a_killed_npukit(stub: Callable[[str | None], None], tmp_path: Path) -> None:
    """npukit is killed the hard way while AIMET works: the worker notices and ends."""
    pid = tmp_path / "pid"
    stub(TIED.format(pid=str(pid)))
    model, data = tmp_path / "m.onnx", tmp_path / "d.npz"
    save(network(), model)
    np.savez(data, **samples())
    words = [
        "quantize",
        str(model),
        "--data",
        str(data),
        "--optimize",
        "adaround",
        "--engine",
        "aimet",
        "-o",
        str(tmp_path / "m.dlc"),
    ]
    with subprocess.Popen([sys.executable, "-m", "npukit", *words], env={**os.environ, "TMPDIR": str(tmp_path)}) as npukit:
        for _ in range(1200):
            if pid.exists() and pid.read_text():
                break
            time.sleep(0.1)
        npukit.kill()
    assert not _runs(int(pid.read_text()))


def test_settings_of_a_configuration() -> None:
    """The section of the optimizer sets its fields; wrong ones are refused with their path."""
    section = {"aimet_quantizer": {"adaround": {"num_batches": 4, "iterations": 100, "timeout": 60.5}}}
    assert AimetAdaround().configure(section, Path()) == AimetAdaround(num_batches=4, iterations=100, timeout=60.5)
    assert AimetSeqMse().configure(section, Path()) == AimetSeqMse()
    for wrong, path in (
        ({"iterations": 0}, "iterations is 0"),
        ({"iterations": 1.5}, "iterations is 1.5"),
        ({"num_batches": True}, "num_batches is True"),
        ({"timeout": "x"}, "timeout is 'x'"),
        ({"steps": 3}, "steps is not known"),
        ([1], "adaround is list, not a mapping"),
    ):
        with pytest.raises(UsageError, match=re.escape("$.adaround")) as caught:
            AimetAdaround().configure({"aimet_quantizer": {"adaround": wrong}}, Path())
        assert path in caught.value.message


def test_the_command_line(player: Player, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--engine aimet`` reaches the bridge; a failure is an error and a hint, exit code 2, and no package."""
    model, data, target = tmp_path / "m.onnx", tmp_path / "d.npz", tmp_path / "m.dlc"
    save(network(), model)
    np.savez(data, **samples())
    words = ["quantize", str(model), "--data", str(data), "--weights", "int4", "--optimize", "seq-mse", "--engine", "aimet"]
    player("sys.exit(5)")
    assert main([*words, "-o", str(target)]) == 2
    printed = capsys.readouterr()
    assert "error: " in printed.err
    assert "exit code 5" in printed.err
    assert "hint: npukit aimet setup-env" in printed.err
    assert "Traceback" not in printed.err
    assert not target.exists()
    player(PLAY)
    assert main([*words, "-o", str(target)]) == 0
    assert "4 optimizer:seq-mse" in capsys.readouterr().out
    assert target.is_file()


# ---------------------------------------------------------------------------------------------------------------- the real thing


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> str:
    if not REAL or not os.access(REAL, os.X_OK):
        pytest.skip("AIMET_ENV_PYTHON names no AIMET environment; npukit aimet setup-env makes one (some GB)")
    monkeypatch.setenv("AIMET_ENV_PYTHON", REAL)
    return REAL


@pytest.mark.slow
@pytest.mark.parametrize("task", OPTIMIZERS)
def test_the_real_aimet_answers_as_recorded(task: str, real: str) -> None:
    """The recording is what AIMET makes of the job: exactly for its version, so for another one only the form is compared."""
    constants, encodings, notes = _captured(task)
    recorded = recording()
    again = recorded["tasks"][task]
    assert [np.shape(c) for c in constants] == [np.shape(c) for c in again["constants"]]
    assert [e["name"] for e in encodings] == [e["name"] for e in again["encodings"]["param_encodings"]]
    if any(recorded["aimet_onnx"] in note for note in notes):
        for new, old in zip(constants, again["constants"], strict=True):
            assert np.allclose(new, old, atol=2e-4)
        assert json.dumps(encodings) == json.dumps(again["encodings"]["param_encodings"])


@pytest.mark.slow
def test_the_real_adaround_helps(real: str) -> None:
    """On the digit classifier with 4-bit weights: at most half the error of the logits on held-out images."""
    with np.load(DATA) as archive:
        images, held_out = archive["calibration"][:64], archive["test_images"][:100]
    given: dict[str, Any] = {"backend": "cpu", "data": {"image": images}, "options": Options(weights="int4")}
    nearest = quantize(Request(MODEL, batch=1), **given)
    rounded = quantize(Request(MODEL, batch=1), **given, optimize=[AimetAdaround(iterations=400)])
    errors = [_logit_error(q, held_out) for q in (nearest, rounded)]
    assert errors[1] < 0.5 * errors[0], errors


def _logit_error(quantized: Quantized, images: Array) -> float:
    """Mean squared difference to the float model, with weights on their grids and everything else float."""
    from npukit.encoding import fake_quantize
    from npukit.graph import Tensor, load

    weights = [n for n, e in quantized.encodings.items() if e.bits == 4]
    graph = quantized.graph
    fixed = graph.with_tensors(Tensor.constant(n, fake_quantize(graph.tensor(n).data, quantized.encodings[n])) for n in weights)
    runs = []
    for one in (load(MODEL, batch=1), fixed):
        session = ort.InferenceSession(serialize(one), providers=["CPUExecutionProvider"])
        runs.append(np.concatenate([session.run(None, {"image": image[None]})[0] for image in images]))
    return float(np.mean((runs[0] - runs[1]) ** 2))


def _captured(task: str) -> tuple[list[Array], list[Any], tuple[str, ...]]:
    """What crosses in one run of the environment that AIMET_ENV_PYTHON names: constants, encodings, notes."""
    with tempfile.TemporaryDirectory() as folder:
        taken = _take(task, Path(folder))
    return [np.array(c) for c in taken["constants"]], taken["encodings"]["param_encodings"], taken["notes"]


def _take(task: str, folder: Path) -> dict[str, Any]:
    """Run a task through an executable that stands before the real Python and keeps a copy of the folder they share."""
    real, copy, wrapper = os.environ["AIMET_ENV_PYTHON"], folder / "copy", folder / "python"
    body = f"said = subprocess.run([{real!r}, *sys.argv[1:]], stdout=subprocess.PIPE, text=True, check=True).stdout\n"
    body += (
        f"shutil.copytree('.', {str(copy)!r})\nopen({str(folder / 'said')!r}, 'w').write(said)\nprint(said, end='', flush=True)\n"
    )
    wrapper.write_text(_HEAD.format(python=sys.executable) + body, encoding="utf-8")
    wrapper.chmod(0o755)
    os.environ["AIMET_ENV_PYTHON"] = str(wrapper)
    try:
        notes = run_task(task).report.notes
    finally:
        os.environ["AIMET_ENV_PYTHON"] = real
    job = json.loads((copy / "job.json").read_text())
    with np.load(copy / job["constants_out"], allow_pickle=False) as archive:
        constants = [archive[str(i)].tolist() for i in range(len(job["parameters"]))]
    return {
        "job": job,
        "grids": json.loads((copy / job["encodings"]).read_text())["param_encodings"],
        "messages": [json.loads(line) for line in (folder / "said").read_text().splitlines()],
        "constants": constants,
        "encodings": json.loads((copy / job["encodings_out"]).read_text()),
        "notes": notes,
    }


def _record() -> None:
    """Write the recording anew."""
    tasks = {}
    for task in OPTIMIZERS:
        folder = Path(tempfile.mkdtemp())
        tasks[task] = _take(task, folder)
        del tasks[task]["notes"]
        shutil.rmtree(folder)
    version = tasks["adaround"]["messages"][0]["version"]
    document = {"aimet_onnx": version, "tasks": tasks}
    RECORDING.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _record()
