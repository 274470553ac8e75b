"""The wheels hold everything, and what they hold works without the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("sdk", "plugins/aimet", "plugins/cpu", "plugins/htp", "plugins/qnn")
SOURCES = {".": [f"{part}/src" for part in PARTS], **{part: [f"{part}/src"] for part in PARTS}}


def _build(project: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT / project, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.parametrize("project", SOURCES)
def test_a_wheel_holds_every_file(project: str, tmp_path: Path) -> None:
    """Data files (YAML, ONNX, npz, py.typed) are in the wheel as well as the modules, and nothing but the packages."""
    wanted = {
        path.relative_to(ROOT / source).as_posix()
        for source in SOURCES[project]
        for path in (ROOT / source).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and ".egg-info" not in str(path)
    }
    with zipfile.ZipFile(_build(project, tmp_path)) as wheel:
        found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == wanted


def test_the_one_wheel_works_alone(tmp_path: Path) -> None:
    """What `pip install .` installs finds its plugins and runs the demo away from the repository."""
    place = tmp_path / "site"
    with zipfile.ZipFile(_build(".", tmp_path)) as wheel:
        wheel.extractall(place)
    environment = {**os.environ, "PYTHONPATH": str(place)}

    def run(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import npukit, npukit_cpu, npukit_htp; print(npukit.__file__, npukit_cpu.__file__, npukit_htp.__file__)"
    assert all(path.startswith(str(place)) for path in run("-c", where).split())
    assert run("-m", "npukit", "--version").startswith("npukit ")
    assert "a8w4" in run("-m", "npukit", "demo", "-q")


def test_dependencies_are_those_of_the_parts() -> None:
    """The one wheel asks for what the sdk with its engine asks for: the parts may not drift apart."""
    import tomllib

    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    sdk = tomllib.loads((ROOT / "sdk" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert sorted(whole["dependencies"]) == sorted([*sdk["dependencies"], *sdk["optional-dependencies"]["ort"]])
    assert whole["version"] == sdk["version"]
    for name in ("aimet", "cpu", "htp", "qnn"):
        part = tomllib.loads((ROOT / "plugins" / name / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert part["version"] == sdk["version"]
        assert part["entry-points"]["npukit"].items() <= whole["entry-points"]["npukit"].items()
