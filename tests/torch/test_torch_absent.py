"""Where torch is not installed, everything else works and a PyTorch model says what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from npukit.cli import main
from npukit_torch.plugin import load_model

HIDDEN = """\
import sys
sys.modules.update(dict.fromkeys({missing!r}))
from npukit.cli import main
sys.exit(main(["check", "model.pt2"]))
"""


@pytest.mark.parametrize("missing", [("torch", "onnxscript"), ("onnxscript",)])
def test_not_installed(tmp_path: Path, missing: tuple[str, ...]) -> None:
    """One message, what to type, exit code 2."""
    (tmp_path / "model.pt2").write_bytes(b"PK\x03\x04")
    code = HIDDEN.format(missing=missing)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    error, hint = done.stderr.splitlines()
    assert (done.returncode, error.startswith("error: PyTorch models are read with")) == (2, True)
    assert hint.startswith("hint: pip install ")
    assert set(missing) <= set(hint.split())


def test_nothing_is_imported_for_other_models(tmp_path: Path) -> None:
    """ONNX is read without torch."""
    code = "import sys; from npukit.cli import main; main(['check', 'none.onnx']); main(['demo', '-q', '-o', '.']);"
    code += "main(['check', 'digits_cnn.onnx', '--batch', '1']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (done.returncode, "digits_cnn.onnx: accepted" in done.stdout) == (0, True), done.stderr
    assert load_model(b"", None, {}, None) is None
    assert main(["check", str(tmp_path / "none.pt2")]) == 2
