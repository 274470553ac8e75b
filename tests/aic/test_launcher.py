"""npukit aic-run: scripts that were written for the vendor's tools, their paths and sudo, run as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from npukit_aic.launcher import TOOLS, make_tree
from npukit_aic.redirect import moved

SAID = "QID 3"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def launch(tmp_path: Path) -> Run:
    """Write a script, run it with arguments below the launcher, in an empty folder."""

    def run(name: str, text: str, *args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        (tmp_path / name).write_text(text)
        words = [sys.executable, "-m", "npukit", "aic-run", name, *args]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=120, input="")
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What scripts see below the launcher, with a qaic-util that says at once what it was asked."""
    root = tmp_path_factory.mktemp("tree")
    found = make_tree(root)
    (root / "tools" / "qaic-util").write_text('#!/bin/sh\nwhile [ "$1" != -d ]; do shift; done\necho "QID $2"\n')
    return found


def said(words: list[str], text: str, environment: dict[str, str], folder: Path) -> str:
    """What a script prints."""
    (folder / words[-1]).write_text(text)
    done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


PYTHON = {
    "os.system": """
        import os
        assert os.system('sudo /opt/qti-aic/tools/qaic-util -q -d 3 > out.txt') == 0
        print(open('out.txt').read())""",
    "a pipe": "import os; os.system('/opt/qti-aic/tools/qaic-util -q -d 3 | grep -A1 \"QID 3\"')",
    "Popen with a list": """
        import subprocess
        child = subprocess.Popen(['sudo', '/opt/qti-aic/tools/qaic-util', '-q', '-d', '3'], stdout=subprocess.PIPE)
        print(child.communicate()[0].decode())
        assert child.returncode == 0""",
    "run with a string": """
        import subprocess
        print(subprocess.run('/opt/qti-aic/tools/qaic-util -d 3', shell=True, stdout=subprocess.PIPE, text=True).stdout)""",
    "check_output with args=": """
        import subprocess
        print(subprocess.check_output(args=('/opt/qti-aic/tools/qaic-util', '-d', '3'), text=True))""",
    "os.popen": "import os; print(os.popen('/opt/qti-aic/tools/qaic-util -d 3').read())",
    "os.execv": "import os; os.execv('/opt/qti-aic/tools/qaic-util', ['qaic-util', '-d', '3'])",
    "os.execl with sudo": "import os; os.execlp('sudo', 'sudo', '-E', 'A=b', '/opt/qti-aic/tools/qaic-util', '-d', '3')",
    "spawn": "import os; assert os.spawnl(os.P_WAIT, '/opt/qti-aic/tools/qaic-util', 'qaic-util', '-d', '3') == 0",
    "the name alone": "import os; os.system('qaic-util -d 3')",
    "which": "import shutil, subprocess; subprocess.check_call([shutil.which('/opt/qti-aic/tools/qaic-util'), '-d', '3'])",
    "a path that is put together": """
        import os, subprocess
        from pathlib import Path
        root = Path('/opt/qti-aic')
        tool = root / 'tools' / 'qaic-util'
        assert tool.is_file() and os.path.isfile(tool) and os.path.exists(os.path.join('/opt/qti-aic', 'exec', 'qaic-exec'))
        assert os.access('/opt/qti-aic/exec/qaic-runner', os.X_OK) and not os.path.exists('/opt/qti-aic/exec/nothing')
        assert 'qaic-runner' in os.listdir('/opt/qti-aic/exec') and 'qaic-util' in [p.name for p in (root / 'tools').iterdir()]
        assert 'qaic-util' in [e.name for e in os.scandir('/opt/qti-aic/tools')] and open(tool).read().startswith('#!')
        subprocess.check_call([tool, '-d', '3'])""",
    "a child that is Python": """
        import subprocess
        open('child.py', 'w').write("import os; os.system('sudo /opt/qti-aic/tools/qaic-util -d 3')")
        subprocess.check_call('python child.py', shell=True)""",
    "multiprocessing": """
        import multiprocessing, os
        if __name__ == '__main__':
            child = multiprocessing.get_context('spawn').Process(target=os.system, args=('/opt/qti-aic/tools/qaic-util -d 3',))
            child.start()
            child.join()""",
}


@pytest.mark.parametrize("form", PYTHON)
def test_python_scripts(form: str, environment: dict[str, str], tmp_path: Path) -> None:
    """All ways in which Python starts programs and looks for files."""
    text = "\n".join(line[8:] if line.startswith(" " * 8) else line for line in PYTHON[form].split("\n"))
    assert SAID in said([sys.executable, "script.py"], text, environment, tmp_path)


# /opt/qti'-aic: what is in another file is not in the text of the script.
SHELL = {
    "a loop": 'for d in 3; do sudo /opt/qti-aic/tools/qaic-util -q -d "$d"; done',
    "a variable": 'QAIC=/opt/qti-aic; TOOL="tools/qaic-util"; "$QAIC/$TOOL" -d 3',
    "a path from another file": "echo 'QAIC=/opt/qti'-aic/tools > env.sh\nsource ./env.sh\n$QAIC/qaic-util -d 3",
    "tests": "if [ ! -x /opt/qti-aic/exec/qaic-exec ]; then exit 9; fi\n[[ -d /opt/qti-aic/tools ]] || exit 8\nqaic-util -d 3",
    "another program": "timeout 60 env A=b /opt/qti-aic/tools/qaic-util -d 3",
    "a script of its own": "echo '/opt/qti'-aic/tools/qaic-util -d '$1' > other.sh\nbash other.sh 3",
    "sh": "echo '/opt/qti'-aic/tools/qaic-util -d '$1' > other.sh\nsh other.sh 3",
    "-c": "bash -c '/opt/qti-aic/tools/qaic-util -d 3'",
    "a pipe": "set -euo pipefail\n/opt/qti-aic/tools/qaic-util -q -d 3 | grep -A1 'QID 3'",
    "its own place": 'cd "$(dirname "${BASH_SOURCE[0]}")" && test -f "$(basename "$0")" && /opt/qti-aic/tools/qaic-util -d 3',
    "functions": 'util() { local d=$1; /opt/qti-aic/tools/qaic-util -d "$d"; }\nutil 3',
    "python": "python3 -c \"import os; os.system('/opt/qti-aic/tools/qaic-util -d 3')\"",
}


@pytest.mark.parametrize("form", SHELL)
def test_shell_scripts(form: str, environment: dict[str, str], tmp_path: Path) -> None:
    assert SAID in said(["bash", "script.sh"], f"#!/bin/bash\n{SHELL[form]}\n", environment, tmp_path)


def test_the_modules_are_found(launch: Run) -> None:
    """Behind the paths that scripts append."""
    text = "import sys; sys.path.append('/opt/qti-aic/dev/lib/x86_64'); import qaic; print(qaic.__file__)"
    assert "npukit_aic" in launch("script.py", text).stdout


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("s.py", "import sys; sys.exit(int(sys.argv[2]))", 7),
        ("s.py", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)", 143),
        ("s.py", "raise SystemExit", 0),
        ("s.sh", 'trap "echo left" EXIT; exit "$2" # /opt/qti-aic', 7),
        ("s.sh", "set -e; false; /opt/qti-aic/tools/qaic-util", 1),
        ("s.sh", "#!/bin/bash -e\nfalse\necho /opt/qti-aic", 1),
        ("s.sh", "/opt/qti-aic/tools/qaic-util -d 99", 2),
        ("s.sh", "/opt/qti-aic/tools/no-such-tool", 127),
    ],
)
def test_the_exit_code_is_that_of_the_script(name: str, text: str, code: int, launch: Run) -> None:
    launch(name, text, "--json", "7", code=code)


def test_all_arguments_are_those_of_the_script(launch: Run) -> None:
    words = ["-q", "--json", "--", "-v", "a b"]
    assert launch("s.py", "import sys; print(sys.argv[1:])", *words).stdout == f"{words}\n"
    assert launch("s.sh", 'printf "%s|" "$@" # /opt/qti-aic', "-q", "a  b").stdout == "-q|a  b|"


def test_what_is_no_script_is_a_program() -> None:
    """This one is the real qaic-util."""
    done = subprocess.run([sys.executable, "-m", "npukit", "aic-run", "qaic-util", "-d", "3"], capture_output=True, text=True)
    assert done.stdout.startswith("QID 3\n\tStatus:Ready")


@pytest.mark.parametrize(("name", "says"), [("nothing.py", "there is no script"), ("nothing", "neither"), (".", "folder")])
def test_no_script(name: str, says: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "npukit", "aic-run", name], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr


def test_an_installed_module_of_the_vendor_is_named(launch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator is used all the same, and says so."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "qaicrt").mkdir()
    (tmp_path / "theirs" / "qaic.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "theirs"))
    done = launch("s.py", "import qaic; print(qaic.__file__)")
    assert "note: a module 'qaic' is installed here, the emulator is used instead" in done.stderr
    assert "'qaicrt'" not in done.stderr
    assert "npukit_aic" in done.stdout


def test_a_signal_goes_to_the_script(tmp_path: Path) -> None:
    """A job that is ended ends its script, and nothing stays behind."""
    (tmp_path / "s.sh").write_text("trap 'echo ended; exit 9' TERM; echo $NPUKIT_AIC_ROOT; while :; do sleep 0.1; done")
    words = [sys.executable, "-m", "npukit", "aic-run", "s.sh"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        root = child.stdout.readline().strip()
        assert Path(root).is_dir()
        child.terminate()
        assert child.communicate(timeout=60)[0] == "ended\n"
    assert child.returncode == 9
    assert not Path(root).exists()


def test_nothing_is_left_and_nothing_is_made_elsewhere(launch: Run, tmp_path: Path) -> None:
    launch("s.sh", "echo $NPUKIT_AIC_ROOT > root.txt; sudo true; ls /opt/qti-aic", code=0)
    assert not Path((tmp_path / "root.txt").read_text().strip()).exists()
    assert not Path("/opt/qti-aic").exists()


def test_a_tree_has_all_tools(tmp_path: Path) -> None:
    """Each stands at its place, can be started, and is found by its name."""
    environment = make_tree(tmp_path)
    for place in TOOLS:
        assert os.access(tmp_path / place, os.X_OK)
        assert (tmp_path / "bin" / Path(place).name).resolve() == tmp_path / place
    assert environment["PATH"].startswith(str(tmp_path / "bin"))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("/opt/qti-aic/exec/qaic-exec -m=a", "R/exec/qaic-exec -m=a"),
        ("sudo /opt/qti-aic/exec/a && x=/opt/qti-aic", "sudo R/exec/a && x=R"),
        ("/home/me/opt/qti-aic/x", "/home/me/opt/qti-aic/x"),
        ("/opt/qti-aic-old/x /opt/qti-aicx", "/opt/qti-aic-old/x /opt/qti-aicx"),
        (b"/opt/qti-aic/x", b"R/x"),
        (["sudo", "/opt/qti-aic/x"], ["sudo", "R/x"]),
        (Path("/opt/qti-aic/x"), "R/x"),
        (Path("/opt/other"), Path("/opt/other")),
        (3, 3),
        (None, None),
    ],
)
def test_what_is_moved(given: object, wanted: object) -> None:
    assert moved(given, "R") == wanted
