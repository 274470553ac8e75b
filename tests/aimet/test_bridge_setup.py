"""``npukit aimet setup-env``: an environment with AIMET, or nothing; and the script that does it when sourced."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from npukit.cli import main
from npukit.errors import PluginError, UsageError
from npukit_aimet.bridge import tarball
from npukit_aimet.bridge.setup import make_environment
from npukit_aimet.bridge.tarball import check_tarball, unpack_wheels

RELEASE = "aimetpro-release-1.33.0.torch-cpu-release.tar.gz"
WHEEL = "aimet_onnx-1.33.0-py3-none-any.whl"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders go; nothing may be left there afterwards."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir()), "something was left behind"


# ---------------------------------------------------------------------------------------------------------------------- tarballs


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


def release(folder: Path, *members: tarfile.TarInfo | tuple[str, bytes], name: str = RELEASE) -> Path:
    """A tarball of members that are empty, or given with their content."""
    path = folder / name
    with tarfile.open(path, "w:gz") as archive:
        for item in members:
            info = item if isinstance(item, tarfile.TarInfo) else member(item[0])
            data = b"" if isinstance(item, tarfile.TarInfo) else item[1]
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_wheels_are_found_and_unpacked_flat(tmp_path: Path) -> None:
    """Wheels in any folder of the release are written beside one another, and nothing else is."""
    path = release(
        tmp_path,
        member("aimet", tarfile.DIRTYPE),
        ("aimet/pip/" + WHEEL, b"one"),
        ("aimet/common-1.33.0-cp310-cp310-linux_x86_64.whl", b"two"),
        ("aimet/README.txt", b"three"),
    )
    members = check_tarball(path)
    out = tmp_path / "out"
    out.mkdir()
    made = unpack_wheels(path, members, out)
    assert {p.name: p.read_bytes() for p in made} == {WHEEL: b"one", "common-1.33.0-cp310-cp310-linux_x86_64.whl": b"two"}
    assert sorted(out.iterdir()) == sorted(made)


@pytest.mark.parametrize(
    "name",
    [
        "aimetpro-release-1.33.0.torch-gpu-release.tar.gz",
        "aimetpro-release-2.1.0.torch-cpu-x.tar.gz",
        "aimetpro-release-1.100.0.torch-cpu-x.tar.gz",
    ],
)
def test_good_names(name: str, tmp_path: Path) -> None:
    """CPU and GPU releases from 1.33.0 on, compared as numbers."""
    assert check_tarball(release(tmp_path, (WHEEL, b""), name=name)) == (WHEEL,)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aimet.tar.gz", "is not an AIMET release"),
        ("aimetpro-release-1.33.0.tf-cpu-x.tar.gz", "is not an AIMET release"),
        ("aimetpro-release-1.33.0.torch-npu-x.tar.gz", "is not an AIMET release"),
        ("aimetpro-release-1.33.0.torch-cpu-x.tar", "is not an AIMET release"),
        ("xaimetpro-release-1.33.0.torch-cpu-x.tar.gz", "is not an AIMET release"),
        ("aimetpro-release-1.32.9.torch-cpu-x.tar.gz", "is AIMET 1.32.9, the bridge needs 1.33.0 or newer"),
        ("aimetpro-release-1.9.0.torch-cpu-x.tar.gz", "is AIMET 1.9.0"),
    ],
)
def test_bad_names_are_refused(name: str, expected: str, tmp_path: Path) -> None:
    """Other products, frameworks and endings, and versions that are too old."""
    with pytest.raises(UsageError, match=expected):
        check_tarball(release(tmp_path, (WHEEL, b""), name=name))


HOSTILE = {
    "parent": (member("../evil-1.0-py3-none-any.whl"), "points outside"),
    "hidden parent": (member("a/../../evil-1.0-py3-none-any.whl"), "points outside"),
    "absolute": (member("/tmp/evil-1.0-py3-none-any.whl"), "points outside"),
    "backslash": (member("..\\evil-1.0-py3-none-any.whl"), "points outside"),
    "parent without wheel": (member("../.bashrc"), "points outside"),
    "symbolic link": (member("evil-1.0-py3-none-any.whl", tarfile.SYMTYPE, "/etc/passwd"), "link or a device"),
    "hard link": (member("evil-1.0-py3-none-any.whl", tarfile.LNKTYPE, "/etc/passwd"), "link or a device"),
    "link of a folder": (member("folder", tarfile.SYMTYPE, "/"), "link or a device"),
    "pipe": (member("pipe", tarfile.FIFOTYPE), "link or a device"),
    "device": (member("disk", tarfile.BLKTYPE), "link or a device"),
    "flag as name": (member("a/--index-url=x-1.0-py3-none-any.whl"), "not the name of a wheel"),
    "folder as wheel": (member("evil-1.0-py3-none-any.whl", tarfile.DIRTYPE), "not the name of a wheel"),
    "odd wheel": (member("wheel.whl"), "not the name of a wheel"),
    "twice": (member("other/" + WHEEL), f"{WHEEL} twice"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_members_are_refused_before_anything_is_made(case: str, tmp_path: Path) -> None:
    """Members that could write elsewhere or be something else than they seem: no environment, no file."""
    bad, expected = HOSTILE[case]
    path = release(tmp_path, (WHEEL, b"good"), bad)
    with pytest.raises(UsageError, match=expected):
        make_environment(tmp_path / "env", path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [RELEASE, "temporary"]


def test_damaged_and_empty_tarballs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no gzip, no tar inside, cut off, without wheels, and one that would fill the disk."""
    path = tmp_path / RELEASE
    with pytest.raises(UsageError, match="there is no file"):
        check_tarball(path)
    whole = release(tmp_path, (WHEEL, os.urandom(100_000))).read_bytes()
    for data in (b"", b"text", gzip.compress(b"text"), whole[:50_000]):
        path.write_bytes(data)
        with pytest.raises(UsageError, match=r"not a readable tar\.gz|holds no wheels"):
            check_tarball(path)
    with pytest.raises(UsageError, match="holds no wheels"):
        check_tarball(release(tmp_path, ("README", b"")))
    bomb = release(tmp_path, (WHEEL, bytes(10_000_000)))
    check_tarball(bomb)
    monkeypatch.setattr(tarball, "_ALWAYS_PLAUSIBLE", 1 << 20)
    with pytest.raises(UsageError, match="would unpack to 10000000 bytes"):
        check_tarball(bomb)


# ------------------------------------------------------------------------------------------- a stand-in for python -m venv and pip

# Plays the base Python ("-m venv DIR") and, copied into DIR, the Python of the environment ("-m pip ...", "worker.py --probe").
STAND_IN = """\
#!{python}
import json, os, shutil, sys
words = sys.argv[1:]
seen = [os.environ.get(name) for name in ("PIP_CONSTRAINT", "PYTHONPATH", "PIP_EXTRA_INDEX_URL")]
open({calls!r}, "a").write(json.dumps([words, *seen]) + chr(10))
if words[:2] == ["-m", "venv"]:
    os.makedirs(os.path.join(words[2], "bin"), exist_ok=True)
    open(os.path.join(words[2], "pyvenv.cfg"), "w").close()
    shutil.copy({path!r}, os.path.join(words[2], "bin", "python"))
    {venv}
elif words[:2] == ["-m", "pip"]:
    print("Collecting aimet-onnx", flush=True)
    print("  Downloading torch-9.9+cpu.whl (184.5 MB)", flush=True)
    {pip}
else:
    {probe}
"""
READY = "print(json.dumps(dict(kind='ready', version='2.0.0', can=[]))); print(json.dumps(dict(kind='done')))"
Base = Callable[..., str]


@pytest.fixture
def base(tmp_path: Path) -> Base:
    """Make a stand-in for the Python that environments are made with; what it was asked is in the file ``calls``."""

    def make(*, venv: str = "pass", pip: str = "pass", probe: str = READY) -> str:
        path = tmp_path / "base-python"
        calls = str(tmp_path / "calls")
        text = STAND_IN.format(python=sys.executable, path=str(path), calls=calls, venv=venv, pip=pip, probe=probe)
        path.write_text(text, encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


def calls(tmp_path: Path) -> list[list[str]]:
    path = tmp_path / "calls"
    return [json.loads(line)[0] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("flag", ["--env_path", "--env-path"])
def test_the_public_package_is_installed(
    flag: str, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard output is the export line alone; pip is asked for aimet-onnx with its own variables and without PYTHONPATH."""
    monkeypatch.setenv("PIP_CONSTRAINT", "mine.txt")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    env = tmp_path / "my env"
    assert main(["aimet", "setup-env", flag, str(env), "--python", base()]) == 0
    assert capsys.readouterr().out == f"export AIMET_ENV_PYTHON='{env}/bin/python'\n"
    venv, pip, probe = (json.loads(line) for line in (tmp_path / "calls").read_text().splitlines())
    assert venv[0] == ["-m", "venv", str(env)]
    assert pip[0][:3] == ["-m", "pip", "install"]
    assert pip[0][-1] == "aimet-onnx>=1.33.0"
    assert pip[1:3] == ["mine.txt", None]
    assert probe[0][-2:] == ["--probe", "--tied"]


@pytest.mark.parametrize("cuda", [False, True])
def test_builds_for_cpus_unless_asked(
    cuda: bool, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The index of CPU builds is added to the user's own; sizes and steps are told while it goes on."""
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://mine")
    assert main(["aimet", "setup-env", "--env_path", str(tmp_path / "env"), "--python", base(), *["--cuda"] * cuda]) == 0
    index = json.loads((tmp_path / "calls").read_text().splitlines()[1])[3]
    assert index == ("https://mine" if cuda else "https://mine https://download.pytorch.org/whl/cpu")
    told = capsys.readouterr().err
    assert ("6.4 GB" if cuda else "2 GB") in told
    assert "Downloading torch-9.9+cpu.whl (184.5 MB)" in told


@pytest.mark.parametrize("flag", ["--aimet_sdk_tar", "--aimet-sdk-tar"])
def test_a_release_is_installed(flag: str, base: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """pip gets the wheels of the tarball and no package by name; --json prints an object."""
    path = release(tmp_path, ("a/" + WHEEL, b""), ("b/common-1.33.0-py3-none-any.whl", b""))
    words = ["aimet", "setup-env", "--env_path", str(tmp_path / "env"), flag, str(path), "--python", base(), "--json"]
    assert main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"AIMET_ENV_PYTHON": str(tmp_path / "env/bin/python"), "version": "2.0.0", "existed": False}
    given = [Path(word).name for word in calls(tmp_path)[1] if word.endswith(".whl")]
    assert given == [WHEEL, "common-1.33.0-py3-none-any.whl"]
    assert not any("aimet-onnx" in word for word in calls(tmp_path)[1])


FAILURES = {
    "venv": ({"venv": "sys.exit('no ensurepip')"}, "python -m venv ended with exit code 1: no ensurepip"),
    "pip": (
        {"pip": "print('ERROR: no such wheel'); print('bye'); sys.exit(1)"},
        "pip ended with exit code 1: ERROR: no such wheel",
    ),
    "pip killed": ({"pip": "os.kill(os.getpid(), 9)"}, "pip was killed by signal 9 (out of memory?): Downloading torch"),
    "no AIMET": (
        {"probe": "print(json.dumps(dict(kind='error', message='has no aimet_onnx')))"},
        "cannot load AIMET: has no aimet_onnx",
    ),
    "too old": ({"probe": READY.replace("2.0.0", "1.32.0")}, "has aimet_onnx 1.32.0, the bridge needs 1.33.0 or newer"),
}


@pytest.mark.parametrize("existed", [False, True], ids=["missing", "empty"])
@pytest.mark.parametrize("case", FAILURES)
def test_nothing_half_made_is_left(
    case: str, existed: bool, base: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever fails: exit code 2, one error line, the end of the output before it, and the folder as it was."""
    parts, expected = FAILURES[case]
    env = tmp_path / "env"
    if existed:
        env.mkdir()
    assert main(["aimet", "setup-env", "--env_path", str(env), "--python", base(**parts)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert expected in line
    assert "Traceback" not in printed.err
    assert ("Collecting aimet-onnx" in printed.err) is (case != "venv")
    assert env.exists() is existed
    assert not existed or not list(env.iterdir())


def test_an_interrupt_leaves_nothing(base: Base, tmp_path: Path) -> None:
    """Ctrl-C while pip runs."""

    def interrupt(line: str) -> None:
        if line == "Collecting aimet-onnx":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_environment(tmp_path / "env", None, base=base(pip="time = __import__('time').sleep(60)"), on_line=interrupt)
    assert not (tmp_path / "env").exists()


def test_what_is_there_is_not_overwritten(base: Base, tmp_path: Path) -> None:
    """A file, a folder with something in it, and a place without a parent are refused and left as they are."""
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    for place, expected in (
        (file, "is not a folder"),
        (folder, "not empty and no virtual"),
        (tmp_path / "a/b", "there is no folder"),
    ):
        with pytest.raises(UsageError, match=expected):
            make_environment(place, None, base=base())
    assert file.read_text() == (folder / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "a").exists()
    assert calls(tmp_path) == []


def test_an_environment_that_works_is_kept(base: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second time nothing is installed; with a release it is, and a failure does not remove what was there before."""
    words = ["aimet", "setup-env", "--env_path", str(tmp_path / "env"), "--python", base()]
    assert main(words) == 0
    first = len(calls(tmp_path))
    assert main(words) == 0
    assert [call[1] for call in calls(tmp_path)[first:]] == ["--probe"]
    assert "is there already" in capsys.readouterr().err
    shutil.copy(base(pip="sys.exit(1)"), tmp_path / "env/bin/python")
    path = release(tmp_path, (WHEEL, b""))
    with pytest.raises(PluginError, match="pip ended with exit code 1"):
        make_environment(tmp_path / "env", path)
    assert (tmp_path / "env/pyvenv.cfg").is_file()


def test_an_environment_without_aimet_gets_it(base: Base, tmp_path: Path) -> None:
    """A virtual environment that cannot load AIMET is completed, not made anew."""
    mark = str(tmp_path / "installed")
    stand_in = base(pip=f"open({mark!r}, 'w').close()", probe=f"os.path.exists({mark!r}) or sys.exit(1); {READY}")
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/pyvenv.cfg").write_text("")
    shutil.copy(stand_in, tmp_path / "env/bin/python")
    made = make_environment(tmp_path / "env", None)
    assert (made.version, made.existed) == ("2.0.0", False)
    assert [call[1] for call in calls(tmp_path)] == ["--probe", "pip", "--probe"]


def test_a_real_environment_from_a_release(tmp_path: Path) -> None:
    """venv, pip and the worker for real, with a release whose aimet_onnx is an empty package."""
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        info = "aimet_onnx-1.33.0.dist-info/"
        archive.writestr("aimet_onnx/__init__.py", "__version__ = '1.33.0'\nprint('hello from AIMET')\n")
        archive.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: aimet_onnx\nVersion: 1.33.0\n")
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(info + "RECORD", f"aimet_onnx/__init__.py,,\n{info}METADATA,,\n{info}WHEEL,,\n{info}RECORD,,\n")
    made = make_environment(tmp_path / "env", release(tmp_path, ("pip/" + WHEEL, wheel.getvalue())))
    assert (made.python, made.version) == (tmp_path / "env/bin/python", "1.33.0")
    assert made.python.is_file()


# --------------------------------------------------------------------------------------------------------------- the sourced script


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run lines of bash; $script is the script and ``npukit`` this one."""
    assert main(["aimet", "script"]) == 0
    script = capsys.readouterr().out.strip()
    tools = tmp_path / "tools"
    tools.mkdir()
    command = tools / "npukit"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m npukit "$@"\n')
    command.chmod(0o755)
    environ = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "script": script}
    environ.pop("AIMET_ENV_PYTHON", None)

    def run(lines: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", lines], env=environ, capture_output=True, text=True, timeout=60, cwd=tmp_path)

    return run


def test_sourcing_sets_the_variable(shell: Callable[[str], subprocess.CompletedProcess[str]], base: Base, tmp_path: Path) -> None:
    """The variable is exported in the shell that sources, also with odd characters in the path, and no helper stays defined."""
    lines = f"""
    set -- kept
    source "$script" --env_path "$PWD/it's \\$HOME" --python {base()} -q; echo "status $?"
    printenv AIMET_ENV_PYTHON; echo "$1"; declare -F
    """
    done = shell(lines)
    assert done.stdout.splitlines() == ["status 0", f"{tmp_path}/it's $HOME/bin/python", "kept"]


def test_sourcing_that_fails_sets_nothing(
    shell: Callable[[str], subprocess.CompletedProcess[str]], base: Base, tmp_path: Path
) -> None:
    """The status is that of the command; the shell goes on; help and JSON are printed, not evaluated."""
    done = shell(
        f'source "$script" --env_path env --python {base(pip="sys.exit(1)")}; echo "status $? ${{AIMET_ENV_PYTHON-unset}}"'
    )
    assert done.stdout == "status 2 unset\n"
    assert "error: pip ended with exit code 1" in done.stderr
    done = shell('source "$script" --help; echo "status $? ${AIMET_ENV_PYTHON-unset}"')
    assert done.stdout.startswith("usage: npukit aimet setup-env")
    assert done.stdout.endswith("status 0 unset\n")


@pytest.mark.parametrize("interpreter", ["bash", "sh"])
def test_executing_the_script_is_refused(
    interpreter: str, shell: Callable[[str], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """A child process could not set the variable, so it does nothing but say so."""
    done = shell(f'{interpreter} "$script" --env_path env')
    assert done.returncode == 2
    assert "source it" in done.stderr
    assert not (tmp_path / "env").exists()


def test_sourcing_without_npukit_says_so(shell: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    """The message names what is missing."""
    done = shell('PATH=/nowhere; source "$script" --env_path env; echo "status $?"')
    assert done.stdout == "status 2\n"
    assert "npukit is not on the PATH" in done.stderr


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """``npukit aimet`` without a command, and wrong flags, are usage errors with a hint."""
    assert main(["aimet"]) == 2
    assert main(["aimet", "setup-env"]) == 2
    assert "--env_path" in capsys.readouterr().err
    assert main(["aimet", "setup-env", "--env_paht", "x"]) == 2
    assert main(["aimet", "--help"]) == 0
    assert "setup-env" in capsys.readouterr().out
