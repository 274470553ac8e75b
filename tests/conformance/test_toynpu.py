"""The example of a third party's backend works as its README says: from its file, and as a distribution on the path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npukit.demo import DATA, MODEL
from npukit.plugins import Registry
from npukit.testing import BackendConformance

TOY = Path(__file__).resolve().parents[2] / "examples" / "toynpu"
PLUGIN = TOY / "src" / "toynpu" / "backend.py"


class TestToyNpu(BackendConformance):
    """The kit on the backend that the registry finds in the file."""

    backend = Registry.load([PLUGIN]).resolve("toy")[0]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which toynpu is installed: its modules and its entry point are on the path."""
    folder = tmp_path_factory.mktemp("site")
    metadata = folder / "toynpu-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toynpu\nVersion: 0.1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text("[npukit]\ntoy = toynpu.backend\n", encoding="utf-8")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(TOY / "src")])}


def npukit(environment: dict[str, str], folder: Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "npukit", *map(str, args)]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


def test_entry_point_is_the_one_of_the_distribution() -> None:
    """The entry point that the tests install is the one that pyproject.toml declares."""
    assert '[project.entry-points.npukit]\ntoy = "toynpu.backend"\n' in (TOY / "pyproject.toml").read_text(encoding="utf-8")


def test_command_line_with_installed_toynpu(installed: dict[str, str], tmp_path: Path) -> None:
    """backends, check, quantize and run know the backend; the digits it reads are right nearly always."""
    with np.load(DATA) as archive:
        images, labels = archive["test_images"][:100], archive["test_labels"][:100]
        np.savez(tmp_path / "calibration.npz", image=archive["calibration"][:50])
    np.savez(tmp_path / "test.npz", image=images)

    listed = npukit(installed, tmp_path, "backends", "--json")
    assert listed.returncode == 0, listed.stderr
    assert '"toy"' in listed.stdout
    checked = npukit(installed, tmp_path, "check", MODEL, "--backend", "toy", "--json")
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["verdict"] == "accepted"
    quantized = npukit(installed, tmp_path, "quantize", MODEL, "--backend", "toy", "--data", "calibration.npz", "-o", "digits.dlc")
    assert quantized.returncode == 0, quantized.stderr
    ran = npukit(installed, tmp_path, "run", "digits.dlc", "--backend", "toy", "--data", "test.npz", "-o", "out")
    assert ran.returncode == 0, ran.stderr
    folders = sorted((tmp_path / "out").glob("Result_*"), key=lambda p: int(p.name.split("_")[1]))
    scores = np.concatenate([np.load(folder / "scores.npy") for folder in folders])
    assert len(scores) == len(labels)
    assert (scores.argmax(axis=1) == labels).mean() > 0.9


def test_command_line_with_plugin_file(tmp_path: Path) -> None:
    """Without installing anything, --plugin FILE brings the backend, and refusals name the op it lacks."""
    done = npukit(dict(os.environ), tmp_path, "check", MODEL, "--plugin", PLUGIN, "--backend", "toy:TOY1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "accepted"


def test_unknown_without_the_plugin(tmp_path: Path) -> None:
    """The sdk knows nothing of toynpu by itself."""
    done = npukit(dict(os.environ), tmp_path, "check", MODEL, "--backend", "toy")
    assert done.returncode == 2
    assert "there is no backend 'toy'" in done.stderr
    assert "Traceback" not in done.stderr


def test_own_test_of_the_example(installed: dict[str, str]) -> None:
    """The test that ships with the example passes."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TOY / "tests")]
    done = subprocess.run(command, env=installed, cwd=TOY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
