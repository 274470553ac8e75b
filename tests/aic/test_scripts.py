"""Client scripts as they are written for the card, unmodified below the launcher: what they get differs from float32 by float16."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from npukit.encoding import Array

from .networks import CONTEXT, HEADS, HIDDEN, write_classifier, write_decoder, write_detector, write_encoder

SCRIPTS = Path(__file__).parent / "scripts"


def launched(script: str, folder: Path, *args: str) -> str:
    """What a script printed, run in a folder."""
    words = [sys.executable, "-m", "npukit", "aic-run", str(SCRIPTS / script), *args]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, timeout=240)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def results(path: Path) -> dict[str, Array]:
    with np.load(path) as file:
        return dict(file)


class Reference:
    """A model in float32, by ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        self._session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        return dict(zip(self._names, self._session.run(None, dict(feeds)), strict=True))


def assert_float16(found: Array, wanted: Array, *, steps: float = 20) -> None:
    """The values differ, by at most ``steps`` float16 roundings of the largest."""
    assert found.dtype == np.float32
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert 0 < error < steps * 2**-11, f"relative error {error:.2e}"


def test_session_features(tmp_path: Path) -> None:
    model = write_classifier(tmp_path / "classifier.onnx")
    config = (
        "aic_num_cores: 4\nconvert-to-fp16: True\nonnx_define_symbol:\n  batch: 2\nmulticast-weights: true\nstats-batchsize: 2\n"
    )
    (tmp_path / "config.yaml").write_text(config)
    text = launched("session_features.py", tmp_path, "--model-path", str(model))
    found = results(tmp_path / "features.npz")
    assert_float16(found["scores"], Reference(model)({"image": found["input"]})["scores"])
    np.testing.assert_array_equal(found["again"], found["scores"])
    assert "100 inferences of batch 2" in text
    assert "runs 9 mean" in text


def test_nlp_encoder(tmp_path: Path) -> None:
    """The runner, the session and sets of threads give the same bits."""
    model = write_encoder(tmp_path / "encoder.onnx")
    text = launched("nlp_encoder.py", tmp_path, "--model-path", "encoder.onnx", "--num-inferences", "12")
    found = results(tmp_path / "encoder.npz")
    reference = Reference(model)
    for i in range(12):
        feeds = {name: found[name][i] for name in ("input_ids", "attention_mask")}
        seen = feeds["attention_mask"] == 1
        assert_float16(found["api"][i][seen], reference(feeds)["logits"][seen])
    np.testing.assert_array_equal(found["tool"], found["api"])
    np.testing.assert_array_equal(found["threads"], found["api"])
    assert "rate" in text


@pytest.mark.slow
def test_vision_classifier(tmp_path: Path) -> None:
    """Options for throughput give the higher rate, those for latency the shorter time; the scores are those of the model."""
    model = write_classifier(tmp_path / "classifier.onnx")
    launched("vision_classifier.py", tmp_path)
    found = results(tmp_path / "classifier.npz")
    wanted = Reference(model)({"image": found["images"]})["scores"]
    for name in ("throughput", "latency"):
        assert_float16(found[f"{name}_scores"], wanted)
    assert found["throughput_rate"] > 10 * found["latency_rate"]
    assert found["latency_latency_us"] < found["throughput_latency_us"]


def test_kv_decoder(tmp_path: Path) -> None:
    """Chunks and single tokens with the cache on the card give what the whole text gives at once in float32."""
    model = write_decoder(tmp_path / "decoder.onnx")
    launched("kv_decoder.py", tmp_path)
    found = results(tmp_path / "decoder.npz")
    tokens = found["tokens"]
    caches = {
        f"past_{kind}.{i}": np.zeros((1, HEADS, CONTEXT, HIDDEN // HEADS), np.float32) for kind in ("key", "value") for i in (0, 1)
    }
    wanted = Reference(model)({"input_ids": tokens[None], "position_ids": np.arange(len(tokens))[None], **caches})["logits"]
    assert len(tokens) == 14
    assert_float16(found["logits"], wanted)
    np.testing.assert_array_equal(found["logits"][0, 7:-1].argmax(-1), tokens[8:])


def test_two_stage_detector(tmp_path: Path) -> None:
    """Two sessions share a card, a third finds no cores."""
    backbone, head = write_detector(tmp_path / "backbone.onnx", tmp_path / "head.onnx")
    text = launched("two_stage_detector.py", tmp_path)
    found = results(tmp_path / "detector.npz")
    for i in range(3):
        assert_float16(found["objectness"][i], Reference(backbone)({"image": found["images"][i]})["objectness"])
        assert_float16(found["classes"][i], Reference(head)({"rois": found["rois"][i]})["classes"])
    assert "a third session: 7 cores of card 1 are asked for, 0 of its 14 are free" in text


@pytest.mark.slow
def test_calibration_sweep(tmp_path: Path) -> None:
    """A shell script: one profile, four builds in int8, each with results of its own that are near those of float32."""
    model = write_classifier(tmp_path / "classifier.onnx")
    images = np.random.default_rng(8).standard_normal((4, 1, 3, 32, 32)).astype(np.float32)
    for i, image in enumerate(images):
        image.tofile(tmp_path / f"image{i}.raw")
    (tmp_path / "list.txt").write_text("".join(f"image{i}.raw\n" for i in range(4)))
    text = launched("calibration_sweep.sh", tmp_path, "classifier.onnx", "list.txt", "4")
    assert text.count("InferenceCnt 4 ") == 4
    wanted = np.concatenate([Reference(model)({"image": image})["scores"] for image in images])
    found = {}
    for folder in sorted(tmp_path.glob("out_*")):
        files = [folder / f"scores-activation-0-inf-{i}.bin" for i in range(4)]
        found[folder.name] = scores = np.stack([np.fromfile(file, np.float32) for file in files])
        assert 2**-11 < np.abs(scores - wanted).max() < 0.1
    assert len({scores.tobytes() for scores in found.values()}) == 4


@pytest.mark.parametrize("script", sorted(SCRIPTS.iterdir()), ids=lambda p: p.stem)
def test_scripts_know_nothing_of_the_emulator(script: Path) -> None:
    assert "npukit" not in script.read_text(encoding="utf-8")
