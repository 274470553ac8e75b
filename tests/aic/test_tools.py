"""qaic-runner, qaic-util, qaic-qpc, qaic-opstats and qaic-model-configurator, as scripts use them."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npukit.graph import Node, make_graph, save
from npukit_aic import cards, options
from npukit_aic.compiler import compile_model
from npukit_aic.loaded import Loaded
from npukit_aic.qpc import read_qpc, write_qpc
from npukit_aic.tools import configurator, opstats, qpc_tool, runner, util

STATS = re.compile(r"InferenceCnt (\d+) TotalDuration (\d+)us BatchSize (\d+) Inf/Sec ([\d.]+)")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = relu(x @ w) + z for x (n, 8) and int64 z (n, 4)."""
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    nodes = [
        Node("MatMul", "product", ("x", "w"), ("h",), {}),
        Node("Relu", "clamp", ("h",), ("r",), {}),
        Node("Cast", "cast", ("z",), ("f",), {"to": 1}),
        Node("Add", "sum", ("r", "f"), ("y",), {}),
    ]
    inputs = {"x": ("float32", ("n", 8)), "z": ("int64", ("n", 4))}
    save(make_graph(nodes, inputs, ["y"], {"w": weight}), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def qpc(model: Path, tmp_path: Path) -> Path:
    """The model for batches of 2 on 4 cores, in float16."""
    values = options.read({"onnx_define_symbol": {"n": 2}, "convert_to_fp16": True, "aic_num_cores": 4})
    return write_qpc(compile_model(model, values), tmp_path / "qpc").parent


def feeds(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((2, 8)).astype(np.float32), "z": rng.integers(0, 9, (2, 4))}


def write_inputs(folder: Path, count: int) -> None:
    folder.mkdir(exist_ok=True)
    for i in range(count):
        for name, value in feeds(i).items():
            value.tofile(folder / f"{name}{i}.bin")


def expected(qpc: Path, seed: int) -> Any:
    return Loaded(read_qpc(qpc)).run(feeds(seed))["y"]


def output(folder: Path, inference: int, activation: int = 0) -> Any:
    return np.fromfile(folder / f"y-activation-{activation}-inf-{inference}.bin", np.float32).reshape(2, 4)


def stats(text: str) -> tuple[int, int, int, float]:
    found = STATS.search(text)
    assert found is not None, text
    return int(found[1]), int(found[2]), int(found[3]), float(found[4])


def test_batch_json(qpc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One inner list per inference, paths relative to the file, mapped by name; entries of outputs are left out."""
    write_inputs(tmp_path / "in", 3)
    groups = [
        [
            {"path": f"in/z{i}.bin", "io-direction": "in", "elem-size": 8, "map-to": "z", "dims": [2, 4]},
            {"path": f"in/x{i}.bin", "io-direction": "in", "elem-size": 4, "map-to": "x"},
            {"path": f"in/y{i}.bin", "io-direction": "out", "elem-size": 4, "map-to": "y"},
        ]
        for i in range(3)
    ]
    (tmp_path / "io.json").write_text(json.dumps({"IO-files": groups}))
    words = ["-t", str(qpc), f"-aic-batch-json-input={tmp_path / 'io.json'}", "-n", "3", "--write-output-dir", str(tmp_path / "o")]
    assert runner.main([*words, "--write-output-num-samples", "3", "-a", "2", ""]) == 0
    for i in range(3):
        np.testing.assert_array_equal(output(tmp_path / "o", i, i % 2), expected(qpc, i))
    assert len(list((tmp_path / "o").iterdir())) == 3
    assert stats(capsys.readouterr().out)[0] == 3


def test_inputs_that_are_not_named_are_zeros(qpc: Path, tmp_path: Path) -> None:
    write_inputs(tmp_path, 1)
    (tmp_path / "io.json").write_text(json.dumps({"IO-files": [[{"path": "x0.bin"}]]}))
    words = ["-t", str(qpc), "--aic-batch-json-input", str(tmp_path / "io.json"), "--write-output-dir", str(tmp_path)]
    assert runner.main(words) == 0
    wanted = Loaded(read_qpc(qpc)).run({"x": feeds(0)["x"], "z": np.zeros((2, 4), np.int64)})["y"]
    np.testing.assert_array_equal(output(tmp_path, 0), wanted)


@pytest.mark.parametrize("form", ["list", "files"])
def test_lists_and_files(qpc: Path, tmp_path: Path, form: str) -> None:
    write_inputs(tmp_path, 2)
    if form == "list":
        (tmp_path / "list.txt").write_text("x0.bin,z0.bin\nx1.bin,z1.bin\n")
        words = ["--aic-batch-input-file-list", str(tmp_path / "list.txt")]
    else:
        words = ["-i", str(tmp_path / "x1.bin"), "-i", str(tmp_path / "z1.bin")]
    out = ["--write-output-dir", str(tmp_path), "-write-output-start-iter", "1"]
    assert runner.main(["-t", str(qpc / "programqpc.bin"), *words, *out]) == 0
    np.testing.assert_array_equal(output(tmp_path, 1), expected(qpc, 1))
    assert not (tmp_path / "y-activation-0-inf-0.bin").exists()


def test_single_samples_fill_the_batch(qpc: Path, tmp_path: Path) -> None:
    """With --auto-batch-input a line is one element of the batch; the last one fills what is left."""
    for i, (x, z) in enumerate(zip(*feeds(0).values(), strict=True)):
        x.tofile(tmp_path / f"x{i}.bin")
        z.tofile(tmp_path / f"z{i}.bin")
    (tmp_path / "list.txt").write_text("x0.bin,z0.bin\nx1.bin,z1.bin\nx1.bin,z1.bin\n")
    words = ["-t", str(qpc), "--aic-batch-input-file-list", str(tmp_path / "list.txt"), "--write-output-dir", str(tmp_path)]
    assert runner.main(words) == 1
    assert runner.main([*words, "--auto-batch-input", "--write-output-num-samples", "2"]) == 0
    np.testing.assert_array_equal(output(tmp_path, 0), expected(qpc, 0))
    np.testing.assert_array_equal(output(tmp_path, 1)[0], expected(qpc, 0)[1])


def test_a_folder_is_for_one_input(tmp_path: Path, qpc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_inputs(tmp_path / "in", 1)
    assert runner.main(["-t", str(qpc), "--aic-batch-input-directory", str(tmp_path / "in")]) == 1
    assert "the model has 2" in capsys.readouterr().err
    nodes = [Node("Relu", "clamp", ("x",), ("y",), {})]
    save(make_graph(nodes, {"x": ("float32", (2, 4))}, ["y"], {}), tmp_path / "one.onnx")
    one = write_qpc(compile_model(tmp_path / "one.onnx", options.read({})), tmp_path / "one").parent
    (tmp_path / "raw").mkdir()
    for name, value in (("b", 2.0), ("a", -1.0)):
        np.full((2, 4), value, np.float32).tofile(tmp_path / "raw" / name)
    words = ["--aic-batch-input-directory", str(tmp_path / "raw"), "--write-output-dir", str(tmp_path)]
    assert runner.main(["-t", str(one), *words, "--write-output-num-samples", "2"]) == 0
    assert output(tmp_path, 0).max() == 0
    assert output(tmp_path, 1).min() == 2


def test_random_data_is_bounded(qpc: Path, tmp_path: Path) -> None:
    """Floats of [0, 1) and integers that any table has; everything with --unbound-random. The inputs are dumped on request."""
    for flags in ([], ["--unbound-random"]):
        words = ["-t", str(qpc), "--write-output-dir", str(tmp_path), "--dump-input-buffers", *flags]
        assert runner.main(words) == 0
        x = np.fromfile(tmp_path / "x-activation-0-inf-0.bin", np.float32)
        z = np.fromfile(tmp_path / "z-activation-0-inf-0.bin", np.int64)
        assert bool(x.min() >= 0 and x.max() < 1 and set(z) <= {0, 1}) is (not flags)


def test_the_rate_is_modelled(qpc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Inf/Sec is count times batch by duration; more in flight is faster, up to a bound; --time costs none."""
    rates = {}
    for depth in (1, 10):
        assert runner.main(["-t", str(qpc), "-n", "100", "-S", str(depth)]) == 0
        text = capsys.readouterr().out
        count, micros, size, rates[depth] = stats(text)
        assert count == 100
        assert "modelled" in text
        assert rates[depth] == pytest.approx(count * size / micros * 1e6, rel=1e-5)
    assert rates[10] > 2 * rates[1]
    assert runner.main(["-t", str(qpc), "--time", "3600"]) == 0
    count, micros, _, _ = stats(capsys.readouterr().out)
    assert count > 1e6
    assert micros == pytest.approx(3600e6, rel=1e-3)


def test_latency_file(qpc: Path, tmp_path: Path) -> None:
    """Four lines of text, then CSV: the total third from the end, times as floats, N/A for what only a card can say."""
    words = ["-t", str(qpc), "-n", "9", "-a", "3", "--aic-profiling-type", "latency", "--aic-profiling-start-iter", "1"]
    assert runner.main([*words, "--aic-profiling-num-samples=5", f"-aic-profiling-out-dir={tmp_path / 'p'}"]) == 0
    files = sorted((tmp_path / "p").iterdir())
    assert [f.name for f in files] == [f"aic-profiling-program-{k}-latency.txt" for k in range(3)]
    lines = files[2].read_text().splitlines()
    head, *rows = csv.reader(lines[4:])
    assert head[0] == "Sample"
    assert head[-3:] == ["totalRoundtripTimeUs", "queueDepth", "numInfInQueue"]
    assert [row[0] for row in rows] == ["1", "2"]  # of the three inferences of this activation
    for row in rows:
        assert all(cell == "N/A" or "." in cell for cell in row[1:])
        assert float(row[-3]) > 0
        assert row[head.index("devExecUs")] == "N/A"


def test_streams_are_windows_of_time(qpc: Path, tmp_path: Path) -> None:
    words = ["-t", str(qpc), "--time", "1", "--aic-profiling-type", "latency_stream", "--aic-profiling-out-dir", str(tmp_path)]
    more = ["--aic-profiling-start-delay", "10", "--aic-profiling-duration", "2", "--aic-profiling-sampling-rate", "fourth"]
    assert runner.main([*words, *more]) == 0
    numbers = [int(line.split(",")[0]) for line in (tmp_path / "aic-profiling-program-0-latency.txt").read_text().splitlines()[5:]]
    assert numbers[0] > 100
    assert set(np.diff(numbers)) == {4}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-t", "nowhere"], "cannot read QPC"),
        (["-n", "0"], "-n"),
        (["--aic-batch-json-input", "nowhere.json"], "nowhere.json"),
        (["--aic-batch-json-input", "bad.json"], "IO-files"),
        (["--aic-batch-json-input", "name.json"], "no input 'q'"),
        (["--aic-batch-json-input", "size.json"], "elem-size"),
        (["--aic-batch-json-input", "dims.json"], "dims"),
        (["--aic-batch-json-input", "uneven.json", "--auto-batch-input"], "the same inputs"),
        (["-i", "short.bin", "-i", "short.bin"], "64"),
        (["-i", "short.bin"], "1 files for 2 inputs"),
        (["-a", "4"], "16 cores"),
        (["-d", "99"], "no card 99"),
        (["-d", "1", "-D", "0:1"], "exclude"),
        (["--frobnicate"], "--frobnicate"),
        (["--write-output-start-iter", "50"], "behind the last"),
        (["--dump-input-buffers", "--write-output-dir="], "--write-output-dir"),
        (["--aic-batch-max-memory", "0"], "from 1 on"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], says: str, qpc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A non-zero exit, one line, and nothing written."""
    monkeypatch.chdir(tmp_path)
    np.zeros(3, np.float32).tofile("short.bin")
    np.zeros((2, 8), np.float32).tofile("x.bin")
    for name, entry in {
        "name": {"path": "x.bin", "map-to": "q"},
        "size": {"path": "x.bin", "map-to": "x", "elem-size": 2},
        "dims": {"path": "x.bin", "map-to": "x", "dims": [4, 8]},
    }.items():
        Path(f"{name}.json").write_text(json.dumps({"IO-files": [[entry]]}))
    uneven = [[{"path": "x.bin", "map-to": "x"}], [{"path": "x.bin", "map-to": "z"}]]
    Path("uneven.json").write_text(json.dumps({"IO-files": uneven}))
    Path("bad.json").write_text("[]")
    assert runner.main(["-t", str(qpc), "--write-output-dir", "out", *words]) in (1, 2)
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("qaic-runner: error: ")
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_util_follows_other_processes(qpc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines that scripts parse; Nsp Free is what no process holds."""
    with cards.claim(1, 5):
        words = [sys.executable, "-m", "npukit_aic.tools.util", "-q", "-j", str(tmp_path / "cards.json")]
        text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert [int(n) for n in re.findall(r"^QID (\d+)$", text, re.MULTILINE)] == list(range(8))
    assert [int(n) for n in re.findall(r"^\tnsp free:(\d+)$", text.lower(), re.MULTILINE)] == [14, 9, *[14] * 6]
    assert len(re.findall(r"^\tStatus:Ready$", text, re.MULTILINE)) == 8
    assert all(float(t) <= 65 for t in re.findall(r"\(degree C\):([\d.]+)", text))
    entry = json.loads((tmp_path / "cards.json").read_text())["device_info"][1]
    assert entry == {"qid": 1, "dev_status": "Ready", "sku_type": "Standard", "nsp_total": 14, "nsp_free": 9}
    assert util.main(["-q", "-d", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("QID 1\n")
    assert "\n\tNsp Free:14\n" in shown
    assert "\n\tDram Total:16384 MB\n" in shown
    assert util.main(["-d", "8"]) == 2


def test_qpc_says_how_many_cores(qpc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert qpc_tool.main(["validate", "-i", str(qpc / "programqpc.bin")]) == 0
    assert capsys.readouterr().out == "Number of NSP required: 4\n"
    (tmp_path / "programqpc.bin").write_bytes((qpc / "programqpc.bin").read_bytes()[:-40])
    assert qpc_tool.main(["validate", "-i", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_opstats_has_a_row_per_layer(qpc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the QPC or from what the runner wrote: the same table."""
    assert opstats.main(["--qpc", str(qpc)]) == 0
    direct = capsys.readouterr().out
    assert "modelled" in direct
    assert runner.main(["-t", str(qpc), "--aic-profiling-type", "stats", "--aic-profiling-out-dir", str(tmp_path / "p")]) == 0
    capsys.readouterr()
    assert opstats.main(["--input-dir", str(tmp_path / "p"), "--output-dir", str(tmp_path / "o")]) == 0
    (written,) = (tmp_path / "o").iterdir()
    assert written.read_text().splitlines()[1:] == direct.splitlines()[1:]
    assert all(re.search(rf"^{node} ", direct, re.MULTILINE) for node in ("product", "clamp", "sum"))
    assert opstats.main([]) == 2
    assert opstats.main(["--input-dir", str(tmp_path)]) == 1


def test_configurator_finds_the_best(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All combinations that fit, by either objective; the QPC of the best lies in a folder named by its values."""
    config = {"cores": [1, 2, 7], "instances": [1, 2, 14], "ols": 1, "batch": [1, 4], "options": {"convert-to-fp16": True}}
    (tmp_path / "c.json").write_text(json.dumps(config))
    words = ["-m", str(model), "-c", str(tmp_path / "c.json"), "-o", str(tmp_path)]
    assert configurator.main(words) == 0
    text = capsys.readouterr().out
    assert "14 configurations modelled, 4 that the card cannot take" in text
    best = tmp_path / "qpc_cores1_mos1_ols1_batch4_instances14_setsize10"
    assert f"QPC of the best: {best}" in text
    assert read_qpc(best).bindings[0].shapes == ((4, 8),)
    rows = [line.split() for line in text.splitlines() if re.match(r"\s*\d+ ", line)]
    rates = [float(row[7]) for row in rows]
    assert len(rows) == 10
    assert rates == sorted(rates, reverse=True)
    assert f"Best value: {rates[0]:.1f} inferences/s" in text
    (tmp_path / "c.json").write_text(json.dumps({**config, "objective": "min-latency"}))
    assert configurator.main(words[:4]) == 0
    latencies = [float(line.split()[8]) for line in capsys.readouterr().out.splitlines() if re.match(r"\s*\d+ ", line)]
    assert latencies == sorted(latencies)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"core": [1]}, "did you mean 'cores'"),
        ({"cores": []}, "'cores'"),
        ({"cores": [15]}, "no configuration fits"),
        ({"objective": "fast"}, "max-throughput"),
        ({"options": {"nope": 1}}, "nope"),
    ],
)
def test_configurator_says_what_is_wrong(
    config: Any, says: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.json").write_text(json.dumps(config))
    assert configurator.main(["-m", str(model), "-c", str(tmp_path / "c.json"), "-o", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
