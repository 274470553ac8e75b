"""The distributions hold everything, work without the repository, and are what other people's packages depend on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ("aic", "aimet", "cpu", "htp", "qairt", "qnn", "torch")
PARTS = {"npukit": "sdk", **{f"npukit-{name}": f"plugins/{name}" for name in PLUGINS}}
# What a third party writes: it depends on npukit and on nothing else of this repository.
MINE = """\
[project]
name = "npukit-mynpu"
version = "0.1.0"
dependencies = ["npukit"]

[project.entry-points.npukit]
mynpu = "npukit_mynpu"
"""
MINE_PLUGIN = """\
from npukit.backend import KernelBackend, Precision, Soc
from npukit.plugins import hookimpl


class MyNpu(KernelBackend):
    name = "mynpu"

    def socs(self):
        return (Soc("mynpu1", "v1"),)

    def precision(self, soc):
        return Precision(activations="uint8", weights="int8")

    def constraints(self):
        return ()

    def kernels(self, soc):
        return {}


@hookimpl
def register_backends():
    return MyNpu()
"""
# Prints what an environment has: distributions by name, and the entry points of every plugin.
LOOK = """\
import importlib.metadata as m, json, sys
names = ("npukit", *(f"npukit-{n}" for n in ("aic", "aimet", "cpu", "htp", "qairt", "qnn", "torch")))
print(json.dumps({
    "versions": {n: m.distribution(n).version for n in names},
    "plugins": sorted(e.name for e in m.entry_points(group="npukit")),
}))
"""


def build(project: str, folder: Path) -> Path:
    """The wheel of a project of this repository."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT / project, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def project(folder: str) -> Any:
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def output(*words: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run([str(w) for w in words], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels of all distributions, by project folder."""
    return {folder: build(folder, tmp_path_factory.mktemp("wheel")) for folder in (*PARTS.values(), "examples/toynpu")}


@pytest.mark.parametrize("folder", PARTS.values())
def test_a_wheel_holds_every_file(folder: str, wheels: dict[str, Path]) -> None:
    """Data files (YAML, ONNX, npz, py.typed) are in the wheel as well as the modules, and nothing but the packages."""
    source = ROOT / folder / "src"
    wanted = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and ".egg-info" not in str(path)
    } | {path.name for path in (ROOT / folder).glob("*.pth")}
    with zipfile.ZipFile(wheels[folder]) as wheel:
        found = {name for name in wheel.namelist() if ".dist-info/" not in name and ".data/scripts/" not in name}
    assert found == wanted


def test_the_wheels_work_away_from_the_repository(wheels: dict[str, Path], tmp_path: Path) -> None:
    """Unpacked into one folder they are distributions, find each plugin once and the third party's too, and run the demo."""
    place = tmp_path / "site"
    for wheel in wheels.values():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place)
    env = {**os.environ, "PYTHONPATH": str(place)}
    where = "import npukit, npukit_cpu, npukit_htp; print(npukit.__file__, npukit_cpu.__file__, npukit_htp.__file__)"
    assert all(path.startswith(str(place)) for path in output(sys.executable, "-c", where, cwd=tmp_path, env=env).split())
    assert json.loads(output(sys.executable, "-c", LOOK, cwd=tmp_path, env=env))["plugins"] == [*PLUGINS, "toy"]
    assert "a8w4" in output(sys.executable, "-m", "npukit", "demo", "-q", cwd=tmp_path, env=env)


def test_the_root_project_is_the_parts(tmp_path: Path) -> None:
    """What `pip install .` builds asks for every distribution of this clone and brings no module and no entry point itself."""
    with zipfile.ZipFile(build(".", tmp_path)) as wheel:
        files = {Path(name).name: name for name in wheel.namelist()}
        metadata = Parser().parsestr(wheel.read(files["METADATA"]).decode())
    assert all(".dist-info/" in name for name in files.values())
    assert "entry_points.txt" not in files
    asked = dict(line.split(" @ ") for line in metadata.get_all("Requires-Dist", []))
    wanted = {**PARTS, "npukit[ort]": PARTS["npukit"]}
    assert asked == {name: (ROOT / folder).as_uri() for name, folder in wanted.items()}
    assert metadata.get_all("Classifier") == ["Private :: Do Not Upload"]


def test_the_parts_go_together() -> None:
    """All have one version, each plugin brings its own entry point, and the Makefile installs what the README names."""
    assert {project(folder)["version"] for folder in (".", *PARTS.values())} == {project("sdk")["version"]}
    points = {name: project(f"plugins/{name}")["entry-points"]["npukit"] for name in PLUGINS}
    assert points == {name: {name: f"npukit_{name}.plugin"} for name in PLUGINS}
    editable = " ".join(('pip install -e "sdk[ort]"', *(f"-e plugins/{name}" for name in PLUGINS)))
    for file, text in (("README.md", editable), ("CONTRIBUTING.md", editable), ("Makefile", editable.removeprefix("pip "))):
        assert text in (ROOT / file).read_text(encoding="utf-8").replace("--quiet ", ""), file


@pytest.mark.slow
@pytest.mark.parametrize(
    "route", [("pip install .", ["."]), ("editable", ["sdk[ort]", *(f"plugins/{n}" for n in PLUGINS)])], ids=lambda r: r[0]
)
def test_others_install_beside_it(route: tuple[str, list[str]], tmp_path: Path) -> None:
    """After either way to install a clone, in a folder with a space, packages that depend on npukit install and are found."""
    clone, mine = tmp_path / "a clone", tmp_path / "mine"
    listed = output("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in (n for n in listed if (ROOT / n).is_file() and not n.startswith(("tests/", "docs/", "bench/"))):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    (mine / "src").mkdir(parents=True)
    (mine / "pyproject.toml").write_text(MINE, encoding="utf-8")
    (mine / "src" / "npukit_mynpu.py").write_text(MINE_PLUGIN, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    output(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet"]
    flags = [] if route[0].startswith("pip") else ["-e"]
    output(*pip, *(word for part in route[1] for word in (*flags, part)), cwd=clone, env=environment)
    output(*pip, "examples/toynpu", cwd=clone, env=environment)
    output(*pip, mine, cwd=clone, env=environment)
    found = json.loads(output(python, "-c", LOOK, cwd=tmp_path, env=environment))
    assert found["versions"] == dict.fromkeys(PARTS, project("sdk")["version"])
    assert found["plugins"] == sorted((*PLUGINS, "toy", "mynpu"))
    backends = json.loads(output(python.with_name("npukit"), "backends", "--json", cwd=tmp_path, env=environment))["backends"]
    assert {row["name"]: row["state"] for row in backends if row["name"] != "qnn"} == dict.fromkeys(
        ("aic", "cpu", "htp", "mynpu", "toy"), "ok"
    )
    assert "a8w4" in output(python.with_name("npukit"), "demo", "-q", cwd=tmp_path, env=environment)
    stand_ins = "import qaic, qaicrt, QAicApi_pb2; print(qaic.__file__)"
    assert "npukit_aic" in output(python, "-c", stand_ins, cwd=tmp_path, env=environment)
    assert "Nsp Total:14" in output(python.with_name("qaic-util"), "-q", "-d", "0", cwd=tmp_path, env=environment)
