"""``npukit quantize --optimize`` through the real command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npukit.graph import Node, make_graph, save
from npukit.testing import small_cnn

CALLBACKS = """
import numpy as np

def images(count=8, batch=4, labelled=False):
    random = np.random.default_rng(0)
    for _ in range(count):
        x = random.standard_normal((batch, 3, 8, 8)).astype("float32")
        yield (x, random.integers(0, 10, batch)) if labelled else x

def agreement(predictions, truth):
    return -float(np.abs(predictions).mean())

def nothing(predictions, truth):
    return None
"""

CONFIG = """
aimet_quantizer:
  datasets:
    calibration: {dataloader_callback: callbacks.py:images, dataloader_kwargs: {count: 6}}
    validation: {dataloader_callback: callbacks.py:images, dataloader_kwargs: {labelled: true}}
  adaround: {dataset: calibration, num_batches: 3}
  amp:
    dataset: validation,
    candidates: [[[16, int], [8, int]], [[8, int], [8, int]]]
    allowed_accuracy_drop: 0.01
    eval_callback_for_phase2: callbacks.py:agreement
    results_dir: results
"""


@pytest.fixture
def words(tmp_path: Path) -> list[Any]:
    save(small_cnn(lambda op: True), tmp_path / "m.onnx")
    images = np.random.default_rng(1).standard_normal((16, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=images)
    (tmp_path / "callbacks.py").write_text(CALLBACKS)
    (tmp_path / "aimet.yaml").write_text(CONFIG)
    return ["quantize", tmp_path / "m.onnx", "--data", tmp_path / "d.npz", "-o", tmp_path / "m.dlc"]


def test_optimizers_in_order(words: list[Any], cli: Any) -> None:
    """The report counts what optimizers decided."""
    done = cli(*words, "--weights", "int4", "--optimize", "cle,adaround", check=0)
    assert "optimizer:adaround" in done.stdout


@pytest.mark.slow
def test_the_published_configuration(words: list[Any], cli: Any, tmp_path: Path) -> None:
    """One YAML file drives AdaRound on its own data and mixed precision with the user's evaluator; results are written."""
    config = tmp_path / "aimet.yaml"
    done = cli(*words, "--weights", "int4", "--optimize", "adaround", "--config", config, check=0)
    assert "optimizer:adaround" in done.stdout
    done = cli(*words, "--optimize", "amp", "--config", config, check=0)
    assert "optimizer:amp" in done.stdout
    found = {path.name for path in (tmp_path / "results").iterdir()}
    assert {"accuracy_list.csv", "accuracy_list.json", "pareto_list.csv", "pareto_list.json", "amp.encodings"} <= found
    overrides = tmp_path / "results" / "amp.encodings"
    cli(*words, "--overrides", overrides, check=0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "callbacks.py:agreement",
            "callbacks.py:agrement",
            "$.amp.eval_callback_for_phase2: 'callbacks.py' has no function 'agrement'",
        ),
        ("callbacks.py:agreement", "callbacks.py:nothing", "the evaluator returned NoneType, not a number"),
        ("callbacks.py:agreement", "other.py:agreement", "file other.py does not exist"),
        ("count: 6", "number: 6", "$.datasets.calibration.dataloader_callback raised TypeError"),
        ("[[16, int], [8, int]]", "[[16, int], [7, int]]", "$.amp.candidates[0][1]"),
        ("[[16, int], [8, int]]", "[16, int]", "$.amp.candidates[0]"),
        ("allowed_accuracy_drop: 0.01", "allowed_accuracy_drop: -1", "$.amp.allowed_accuracy_drop is -1"),
        ("dataset: validation,", "dataset: validations", "there is no data set 'validations'"),
        ("num_batches: 3", "num_batches: 0", "$.adaround.num_batches is 0"),
        ("num_batches", "num_baches", "$.adaround.num_baches is not known"),
        ("labelled: true", "labelled: false", "no pair of inputs and truth"),
        ("aimet_quantizer:", "quantizer:", "no 'aimet_quantizer'"),
    ],
)
def test_what_is_wrong_is_named(words: list[Any], cli: Any, tmp_path: Path, old: str, new: str, message: str) -> None:
    """A wrong setting is one line with its path in the file, and nothing is written."""
    (tmp_path / "aimet.yaml").write_text(CONFIG.replace(old, new))
    optimize = "adaround,amp"
    done = cli(*words, "--optimize", optimize, "--config", tmp_path / "aimet.yaml")
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "m.dlc").exists()


@pytest.mark.slow
def test_compare_knows_that_weights_were_changed(words: list[Any], cli: Any, tmp_path: Path) -> None:
    """Rounded weights are no reference: a note says so, and with the original as --reference the result is the honest one."""

    cli(*words, "--weights", "int4", "--optimize", "adaround", check=0)
    call = ["compare", tmp_path / "m.dlc", "--backend", "cpu:qdq", "--data", tmp_path / "d.npz", "--json"]
    own = json.loads(cli(*call, check=0).stdout)
    true = json.loads(cli(*call, "--reference", tmp_path / "m.onnx", check=0).stdout)
    assert "adaround" in own["notes"][0]
    assert "--reference m.onnx" in own["notes"][0]
    assert true["notes"] == []
    assert true["reference"].startswith("m.onnx")
    assert true["outputs"][0]["sqnr"]["cpu:qdq"] < own["outputs"][0]["sqnr"]["cpu:qdq"] - 3
    other = tmp_path / "other.onnx"
    save(make_graph([Node("Relu", "r", ("x",), ("z",))], {"x": ("float32", (1, 3, 8, 8))}, ["z"], {}), other)
    assert "an output of the model" in cli(*call, "--reference", other, check=2).stderr


def test_flags_without_effect_are_refused(words: list[Any], cli: Any) -> None:
    """--config and --engine mean nothing without --optimize, and a configuration that nobody reads is an error."""
    for flag in ("--config", "--engine"):
        assert "without --optimize" in cli(*words, flag, "aimet", check=2).stderr
    assert "takes a configuration" in cli(*words, "--optimize", "cle", "--config", "aimet.yaml", check=2).stderr
