"""Small networks in torch; the tests that need them skip where torch or onnxscript is not installed."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    """torch, with the ops of PT2E registered."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("torch", "onnxscript"):
            pytest.importorskip(name, reason=f"{name} is not installed")
        import torch
        import torch.ao.quantization.fx._decomposed
    torch.manual_seed(0)
    return torch


@pytest.fixture
def network(torch: ModuleType) -> Any:
    """Convolutions with batch norms, in modules within modules, and a linear layer."""
    nn = torch.nn

    class Block(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Any) -> Any:
            return torch.relu(self.norm(self.conv(x))) + x

    class Network(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])
            self.head = nn.Linear(4, 3)

        def forward(self, image: Any, scale: Any) -> Any:
            for block in self.blocks:
                image = block(image)
            return self.head((image * scale).mean((2, 3)))

    return Network()


@pytest.fixture
def save(torch: ModuleType, tmp_path: Any) -> Any:
    """Export a module with its example and save it as model.pt2; returns the path."""

    def write(module: Any, *example: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(torch.export.export(module.eval(), example, **options), tmp_path / "model.pt2")
        return tmp_path / "model.pt2"

    return write
