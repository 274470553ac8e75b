"""What cannot be read is told in one line, with the module and the cure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import npukit as nk
from npukit.cli import main
from npukit.errors import DataError, ModelError, PluginError, UsageError

TWIST = """
import torch
library = torch.library.Library("npukit_tests", "DEF")
library.define("twist(Tensor x) -> Tensor")
library.impl("twist", lambda x: x * 2, "CompositeExplicitAutograd")
class Twist(torch.nn.Module):
    def forward(self, x):
        return torch.ops.npukit_tests.twist(x)
torch.export.save(torch.export.export(Twist(), (torch.ones(1, 8),)), "twist.pt2")
"""


def module_of(torch: ModuleType, forward: Any) -> Any:
    """``forward`` as a module within modules, behind a linear layer."""

    class Inner(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, x: Any) -> Any:
            return forward(x)

    return torch.nn.ModuleDict({"stem": torch.nn.Sequential(torch.nn.Linear(8, 8), Inner())})["stem"]


def test_control_flow_that_depends_on_data(torch: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    """The innermost module is named; torch's own prints and logs stay away."""
    module = module_of(torch, lambda x: x if x.sum() > 0 else -x)
    with pytest.raises(ModelError, match=r"^torch cannot export module '1': .*data-dependent") as caught:
        nk.check(module, example=(torch.randn(1, 8),))
    assert "torch.where" in caught.value.hint
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert module.training


def test_what_torch_cannot_trace(torch: ModuleType) -> None:
    with pytest.raises(ModelError, match=r"^torch cannot export module '1': .*numpy") as caught:
        nk.check(module_of(torch, lambda x: torch.from_numpy(x.detach().numpy())), example=(torch.randn(1, 8),))
    assert "torch.export.export" in caught.value.hint


def test_an_op_that_onnx_does_not_have(torch: ModuleType, save: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """In the API and on the command line."""
    module = module_of(torch, torch.special.airy_ai)
    with pytest.raises(ModelError, match=r"^module '1' has no form in ONNX: .*special_airy_ai"):
        nk.check(module, example=(torch.randn(1, 8),))
    assert main(["check", str(save(module, torch.randn(1, 8)))]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"]


@pytest.mark.parametrize("shape", [(1, 7), (8, 1)])
def test_example_of_another_shape(torch: ModuleType, shape: tuple[int, ...]) -> None:
    """It is the module that fails, and says where."""
    with pytest.raises(DataError, match=r"^module '0' fails on the example: .*shape"):
        nk.quantize(module_of(torch, torch.relu), example=(torch.randn(shape),), data=[])


def test_examples_of_no_use(torch: ModuleType, save: Any) -> None:
    module, x = module_of(torch, torch.relu), torch.randn(1, 8)
    for example, found in ((None, "none was given"), (x, "found Tensor"), ([x], "found list")):
        with pytest.raises(UsageError, match=found):
            nk.check(module, example=example)
    for example in ((), (x, x), {"y": x}):
        with pytest.raises(DataError, match="the module fails on the example"):
            nk.check(module, example=example)
    for source in (save(module, x), torch.export.export(module, (x,))):
        with pytest.raises(UsageError, match="has its inputs already"):
            nk.check(source, example=(x,))


def test_files_that_are_no_program(torch: ModuleType, save: Any, tmp_path: Path) -> None:
    whole = save(module_of(torch, torch.relu), torch.randn(1, 8)).read_bytes()
    path = tmp_path / "bad.pt2"
    with pytest.raises(UsageError, match="cannot read model"):
        nk.check(path)
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"bad\.pt2' is not an exported program"):
            nk.check(path)


def test_ops_of_a_library_that_is_not_imported(torch: ModuleType, tmp_path: Path) -> None:
    """An op cannot be taken back, so another process has it and saves the program."""
    subprocess.run([sys.executable, "-c", TWIST], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    with pytest.raises(PluginError, match=r"does not know: npukit_tests\.twist") as caught:
        nk.check(tmp_path / "twist.pt2")
    assert "--plugin" in caught.value.hint
