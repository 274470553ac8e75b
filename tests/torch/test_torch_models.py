"""Modules and exported programs become graphs whose nodes are named after modules, and compute what torch computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import npukit as nk
from npukit.cli import main
from npukit.graph import Graph
from npukit.quantization import read_source


def example(torch: ModuleType) -> tuple[Any, Any]:
    return torch.randn(1, 4, 8, 8), torch.rand(1, 4, 1, 1)


def eager(torch: ModuleType, module: Any, *inputs: Any) -> Any:
    with torch.no_grad():
        return module.eval()(*inputs).numpy()


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes]


def test_module(torch: ModuleType, network: Any) -> None:
    """A module is traced as it computes when it does not train, and is left as it was; nodes and tensors have its paths."""
    network.blocks[1].eval()
    x, scale = example(torch)
    graph = read_source(network, example=(x, scale)).graph
    assert [part.training for part in (network, network.blocks[0].norm, network.blocks[1].norm)] == [True, True, False]
    assert names(graph) == [
        *(f"blocks.{i}{name}" for i in (0, 1) for name in (".conv/Conv", "/Relu", "/Add")),
        *("Mul", "ReduceMean", "head/Gemm"),
    ]
    assert graph.inputs == ("image", "scale")
    assert graph.producers["blocks.1/Relu"].name == "blocks.1/Relu"
    assert {"blocks.0.conv.weight", "head.bias"} <= graph.tensors.keys()
    with nk.Session(graph) as session:
        (found,) = session.run({"image": x.numpy(), "scale": scale.numpy()}).values()
    np.testing.assert_allclose(found, eager(torch, network, x, scale), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["htp", "cpu:qdq"])
def test_quantize_and_check(torch: ModuleType, network: Any, backend: str) -> None:
    """Tuples of tensors calibrate; an example by name is as good as one by position; types go to the nodes of a module."""
    x, scale = example(torch)
    assert nk.check(network, backend, example=(x, scale)).verdict == "accepted"
    samples = [example(torch) for _ in range(4)]
    made = nk.quantize(network, backend, example={"image": x, "scale": scale}, data=samples)
    inputs = samples[0]
    with nk.Session(made) as session:
        (found,) = session.run({"image": inputs[0].numpy(), "scale": inputs[1].numpy()}).values()
    wanted = eager(torch, network, *inputs)
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    assert not np.array_equal(found, wanted)


def test_a_module_that_is_called_twice(torch: ModuleType) -> None:
    """Its nodes have different names; a module that the outermost one holds under two names has both."""

    class Twice(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = torch.nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            return self.second(torch.relu(self.first(self.first(x))))

    graph = read_source(Twice(), example=(torch.randn(2, 4),)).graph
    assert names(graph) == ["first/Gemm", "first/Gemm_1", "Relu", "second/Gemm"]


@pytest.mark.slow
def test_program_with_a_symbol(torch: ModuleType) -> None:
    """A dynamic dimension stays a symbol, is told of by check, and is bound like one of an ONNX file."""
    batch = torch.export.Dim("batch")
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval()
    program = torch.export.export(module, (torch.randn(3, 4),), dynamic_shapes=({0: batch},))
    (symbol,) = [d for d in read_source(program).graph.tensor("input").shape or () if isinstance(d, str)]
    (problem,) = nk.check(program, "htp").problems
    assert (problem.rule, problem.tensor) == ("dynamic-shape", "input")
    assert "--batch" in problem.hint
    for request in (nk.Request(program, batch=2), nk.Request(program, symbols={symbol: 2})):
        assert read_source(request).graph.tensor("input").shape == (2, 4)
        assert not nk.check(request, "htp").problems


@pytest.mark.slow
def test_decoder(torch: ModuleType) -> None:
    """A decoder of transformers: the paths are those that its parameters have."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_key_value_heads=1, use_cache=False))
    ids = torch.randint(0, 64, (1, 8))
    graph = read_source(model, example={"input_ids": ids}).graph
    assert {"model.layers.1.self_attn.q_proj/MatMul", "model.layers.0.mlp.down_proj/MatMul"} <= set(names(graph))
    with nk.Session(graph) as session, torch.no_grad():
        (found,) = session.run({"input_ids": ids.numpy()}).values()
        np.testing.assert_allclose(found, model.eval()(ids).logits.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_command_line(torch: ModuleType, network: Any, save: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """check and quantize take a .pt2 file; what is printed is the result and nothing of the exporter's."""
    path = save(network, *example(torch))
    inputs = {"image": np.ones((2, 4, 8, 8), np.float32), "scale": np.ones((2, 4, 1, 1), np.float32)}
    np.savez(tmp_path / "data.npz", **inputs)

    command = [sys.executable, "-m", "npukit", "check", path.name, "--node-type", "blocks.0*=float16", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["verdict"] == "accepted"
    package = str(tmp_path / "model.dlc")
    assert main(["quantize", str(path), "--data", str(tmp_path / "data.npz"), "-o", package, "-q"]) == 0
    capsys.readouterr()
    assert main(["info", package, "--json"]) == 0
    assert "blocks.1.conv/Conv" in [layer["name"] for layer in json.loads(capsys.readouterr().out)["layers"]]
