"""Peak memory of the commands on a model whose weights are far larger than its activations: a stack of decoder layers.

python bench/memory.py            484 million parameters, 1.94 GB of float weights (needs 3 GB of disk and about 2 minutes)
python bench/memory.py --small    a sixth of that

Weights are random. Each command runs in a process of its own, whose anonymous memory (RssAnon of /proc/PID/status, Linux only) is
sampled every 5 ms: pages of a mapped file, which the system drops when it needs the room, do not count.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npukit.graph import Node

TOKENS = 16
MEGABYTE = 1e6


class Size:
    """How large a stack is, and what it may cost: anonymous memory in MB per command, and the share of the float model."""

    def __init__(self, layers: int, hidden: int, inner: int, words: int, bars: dict[str, float]) -> None:
        self.layers, self.hidden, self.inner, self.words, self.bars = layers, hidden, inner, words, bars

    def weights(self) -> dict[str, tuple[int, int]]:
        """Name -> shape of every matrix; the last one gives the scores of the words."""
        square, wide = (self.hidden, self.hidden), (self.hidden, self.inner)
        shapes = {"q": square, "k": square, "v": square, "o": square, "gate": wide, "up": wide, "down": wide[::-1]}
        found = {f"{layer}.{name}": shape for layer in range(self.layers) for name, shape in shapes.items()}
        return found | {"head": (self.hidden, self.words)}


# Of the memory, about 45 MB are Python, numpy and onnx themselves.
FULL = Size(8, 2048, 5632, 35328, {"quantize": 800, "check": 300, "info": 300, "run": 1500})
SMALL = Size(8, 832, 2304, 14336, {"quantize": 200, "check": 100, "info": 100, "run": 300})
SHARE = 0.15


def nodes_of(size: Size) -> Iterator[Node]:
    """The nodes: attention with one head and a gated network per layer, each behind a normalization and added to its input."""
    from npukit.graph import Node

    def make(op: str, output: str, *inputs: str, **attributes: Any) -> str:
        made.append(Node(op, output, inputs, (output,), attributes))
        return output

    made: list[Node] = []
    state = "x"
    for layer in map(str, range(size.layers)):

        def times(weight: str, source: str, layer: str = layer) -> str:
            return make("MatMul", f"{layer}.{weight}.out", source, f"{layer}.{weight}")

        normal = make("LayerNormalization", f"{layer}.normal", state, "gain", "shift")
        keys = make("Transpose", f"{layer}.keys", times("k", normal), perm=(0, 2, 1))
        scores = make("Mul", f"{layer}.scores", make("MatMul", f"{layer}.qk", times("q", normal), keys), "factor")
        mixed = make("MatMul", f"{layer}.mixed", make("Softmax", f"{layer}.shares", scores), times("v", normal))
        state = make("Add", f"{layer}.attended", state, times("o", mixed))
        normal = make("LayerNormalization", f"{layer}.normal2", state, "gain", "shift")
        gate = make("Sigmoid", f"{layer}.open", times("gate", normal))
        inner = make("Mul", f"{layer}.inner", gate, times("up", normal))
        state = make("Add", f"{layer}.state", state, times("down", inner))
    make("MatMul", "y", state, "head")
    yield from made


def write_model(size: Size, folder: Path) -> Path:
    """Write the float model with its weights in one external file, and a sample; memory holds one matrix at a time."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    entries, offset = [], 0
    with open(folder / "model.data", "wb") as file:
        for name, shape in size.weights().items():
            entry = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
            count = 4 * shape[0] * shape[1]
            for key, value in {"location": "model.data", "offset": offset, "length": count}.items():
                entry.external_data.add(key=key, value=str(value))
            entries.append(entry)
            file.write((rng.standard_normal(shape, np.float32) / np.float32(shape[0] ** 0.5)).tobytes())
            offset += count
    vectors = {"gain": np.ones(size.hidden), "shift": np.zeros(size.hidden), "factor": np.asarray(size.hidden**-0.5)}
    entries += [numpy_helper.from_array(value.astype(np.float32), name) for name, value in vectors.items()]
    graph = helper.make_graph(
        [helper.make_node(n.op, n.inputs, n.outputs, n.name, **n.attributes) for n in nodes_of(size)],
        "decoder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, TOKENS, size.hidden))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, TOKENS, size.words))],
        entries,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "model.onnx")
    (folder / "data").mkdir()
    np.save(folder / "data" / "x.npy", rng.standard_normal((1, TOKENS, size.hidden), np.float32))
    return folder / "model.onnx"


def peak_of(command: Sequence[str]) -> tuple[float, float]:
    """Run a command of npukit; its peak of anonymous memory in MB, and the seconds it took. Exits when it fails."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, "-m", "npukit", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while process.poll() is None:
        peak = max(peak, anonymous(process.pid))
        time.sleep(0.005)
    output = process.communicate()[0]
    if process.returncode:
        sys.exit(f"npukit {' '.join(command)} failed:\n{output}")
    return peak / MEGABYTE, time.perf_counter() - start


def anonymous(pid: int) -> int:
    """The anonymous memory of a process in bytes, 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return 1024 * int(lines[0].split()[1]) if lines else 0


def measure(size: Size, folder: Path) -> list[tuple[str, float, float, float]]:
    """(what, found, bar, seconds) of the package and of every command."""
    model, package, data = str(write_model(size, folder)), str(folder / "model.dlc"), str(folder / "data")
    commands = {
        "quantize": ["quantize", model, "-o", package, "--backend", "htp", "--weights", "int4", "--data", data],
        "check (float model)": ["check", model, "--weights", "int4"],
        "check": ["check", package],
        "info": ["info", package],
        "run": ["run", package, "--backend", "htp", "--data", data],
    }
    rows = []
    for name, command in commands.items():
        found, seconds = peak_of(command)
        rows.append((f"npukit {name}, MB", found, size.bars[name.split()[0]], seconds))
    share = (folder / "model.dlc").stat().st_size / (folder / "model.data").stat().st_size
    return [("package / float model", share, SHARE, 0.0), *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak anonymous memory of the commands on a stack of decoder layers.")
    parser.add_argument("--small", action="store_true", help="a sixth of the parameters, with bars of its own")
    parser.add_argument("--folder", type=Path, help="where the files go for the time of the run (default: the temporary folder)")
    args = parser.parse_args()
    from npukit.report import table

    size = SMALL if args.small else FULL
    count = sum(rows * columns for rows, columns in size.weights().values())
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rows = measure(size, Path(folder))
    print(f"{count / 1e6:.0f} million parameters, int4 weights, {TOKENS} tokens")
    print(table(["What", "Found", "Bar", "Seconds", ""], [(*row, "ok" if row[1] <= row[2] else "TOO MUCH") for row in rows]))
    sys.exit(any(found > bar for _, found, bar, _ in rows))


if __name__ == "__main__":
    main()
