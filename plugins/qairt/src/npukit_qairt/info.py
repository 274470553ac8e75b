"""qairt-dlc-info: the tables as the vendor's tool prints them, so that scripts that read them go on working."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import attrs

from npukit import __version__
from npukit import package as packages
from npukit.backend import Target
from npukit.commands import check_writable
from npukit.encoding import Encoding
from npukit.errors import UsageError
from npukit.graph import Node, write_atomic
from npukit.package import Info, LayerRow, Package, TensorRow, read_package
from npukit.plugins import Registry
from npukit_qairt.dlc import facts, float_tensors
from npukit_qairt.paths import model_file
from npukit_qairt.targets import target_of

_OPS = ("Id", "Name", "Type", "Inputs", "Outputs", "Out Dims", "Runtimes", "Parameters")
_NOTE = """\
Note: Runtimes are those of this installation: the column does not depend on a chip
Key : A:AIP
      D:DSP
      G:GPU
      C:CPU
"""


@attrs.frozen
class Table:
    """A headed table, whose cells may hold several lines."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """With rules and bars; further lines of a cell follow as rows with an empty first column."""
        lines = [line for row in self.rows for line in _lines(row)]
        widths = [max(map(len, column)) for column in zip(self.headers, *lines, strict=True)]
        rule = "-" * (sum(widths) + 3 * len(widths) + 1)
        body = [self._line(line, widths) for line in lines]
        return "\n".join([rule, self._line(self.headers, widths), rule, *body, rule])

    @staticmethod
    def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def _lines(row: Sequence[str]) -> Iterator[tuple[str, ...]]:
    cells = [cell.split("\n") for cell in row]
    for index in range(max(map(len, cells))):
        yield tuple(cell[index] if index < len(cell) else "" for cell in cells)


def run(args: Namespace) -> int:
    path = model_file(args.input_dlc)
    package = read_package(path)
    info = packages.describe(package.graph, package.encodings, package.manifest)
    known = facts(package.manifest)
    trace = known.get("trace")
    if getattr(args, "dump_framework_trace", False) and (not args.save or trace is None):
        what = "needs --save FILE.csv" if not args.save else f"finds none in {path}"
        raise UsageError(f"--dump_framework_trace {what}", hint="qairt-converter --enable_framework_trace keeps the source names")
    registry = Registry.load()
    target = target_of(registry, None, None, package.manifest)
    ops, ends = ops_table(info, package, target), ends_tables(package)
    print(f"DLC info for: {path.resolve()}")
    print(f"Model Version: {known.get('model_version', 'N/A')}\nModel Copyright: {known.get('copyright', 'N/A')}")
    tables = [ops, *ends]
    print(ops.text(), _NOTE, *(table.text() for table in ends), sep="\n")
    if getattr(args, "display_all_encodings", False):
        tables.append(encodings_table(package))
        print(tables[-1].text())
    print(_footer(info, known))
    if getattr(args, "display_memory", False):
        tables.append(memory_table(package))
        print(tables[-1].text())
    if getattr(args, "dump_framework_trace", False):
        rows = tuple((name, ", ".join(sources)) for name, sources in (trace or {}).items())
        tables.append(Table(("Op or tensor", "Source names"), rows))
    if args.save:
        save(args.save, tables)
    return 0


def save(path: str, tables: Iterable[Table]) -> None:
    """Write tables as CSV, an empty line between them."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for index, table in enumerate(tables):
        writer.writerows([[]] if index else [])
        writer.writerow(table.headers)
        writer.writerows(table.rows)
    write_atomic(check_writable(path), [stream.getvalue().encode()])


def ops_table(info: Info, package: Package, target: Target) -> Table:
    """The ops with their tensors, types and sizes."""
    rows = []
    for layer, node in zip(info.layers, package.graph.nodes, strict=True):
        native = next((row.native for row in target.rules.of_op(node) if row.native), layer.op)
        native = _one_name(native.split(" or "), package, node)
        runtimes = "A D C" if target.planner.supports(node.op, node.domain, target.soc) else "C"
        cells = ["\n".join(_tensor(package, t) for t in part) for part in (layer.inputs, layer.outputs)]
        dims = "\n".join(_dims(t) for t in layer.outputs)
        rows.append((str(layer.id), layer.name, native, *cells, dims, runtimes, _parameters(layer, info)))
    return Table(_OPS, tuple(rows))


def _one_name(names: list[str], package: Package, node: Node) -> str:
    """The native name of a node whose op has several, by its rank and groups."""
    if node.op not in ("Conv", "ConvTranspose") or len(names) == 1:
        return names[0]
    shape = package.graph.tensor(node.inputs[1]).shape or ()
    depthwise = node.op == "Conv" and node.get("group", 1) > 1 and len(shape) > 1 and shape[1] == 1
    wanted = "3d" if len(shape) == 5 else "DepthWise" if depthwise else "2d"
    return next((name for name in names if wanted in name), names[0])


def _parameters(layer: LayerRow, info: Info) -> str:
    lines = [f"{key}: {value}" for key, value in layer.attributes.items()]
    if layer.parameters:
        lines.append(f"param count: {_short(layer.parameters)} ({_share(layer.parameters, info.parameters)})")
    if layer.macs:
        lines.append(f"MACs per inference: {_short(layer.macs)} ({_share(layer.macs, info.macs)})")
    return "\n".join(lines)


def _tensor(package: Package, tensor: TensorRow) -> str:
    kind = "NATIVE"
    if tensor.constant:
        kind = "STATIC"
    elif tensor.name in package.graph.inputs:
        kind = "APP_WRITE"
    elif tensor.name in package.graph.outputs:
        kind = "APP_READ"
    return f"{tensor.name} (data type: {tensor.type}; tensor dimension: [{_dims(tensor)}]; tensor type: {kind})"


def _dims(tensor: TensorRow) -> str:
    return ",".join(str(d) for d in tensor.shape or ())


def _short(count: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count // size}{unit}"
    return str(count)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.3g}%"


def ends_tables(package: Package) -> list[Table]:
    """Inputs and outputs, with the types that they are handed over in."""
    found = []
    for what, names in (("Input Name", package.graph.inputs), ("Output Name", package.graph.outputs)):
        rows = []
        for name in names:
            encoding, edge = package.encodings.get(name), package.edges.get(name)
            handed = edge.native(package.graph.tensor(name), encoding) if edge else package.graph.tensor(name)
            codes = edge is not None and encoding is not None and edge.dtype == encoding.dtype
            kept = {name: encoding} if codes and encoding is not None else {}
            (row,) = packages.describe(
                package.graph.evolve(nodes=(), inputs=(name,), outputs=()).with_tensors([handed]), kept
            ).inputs
            rows.append((name, _dims(row), row.type, _grid(encoding)))
        found.append(Table((what, "Dimensions", "Type", "Encoding Info"), tuple(rows)))
    return found


def _grid(encoding: Encoding | None) -> str:
    if encoding is None or encoding.is_float:
        return "No encoding info for this tensor"
    low, high, scale, zero = (v.reshape(-1) for v in (encoding.min, encoding.max, encoding.steps, encoding.zeros))
    lines = [
        f"bitwidth {encoding.bits}, min {low[i]:.12f}, max {high[i]:.12f}, scale {scale[i]:.12f}, offset {float(-zero[i]):.12f}"
        for i in range(scale.size)
    ]
    return "\n".join(lines)


def encodings_table(package: Package) -> Table:
    """Every encoding, channel by channel."""
    names = [n for n in float_tensors(package.graph) if n in package.encodings]
    return Table(
        ("Tensor", "Origin", "Axis", "Encoding Info"),
        tuple((n, package.encodings[n].origin, str(package.encodings[n].axis), _grid(package.encodings[n])) for n in names),
    )


def memory_table(package: Package) -> Table:
    """What the constants take, by type."""
    info = packages.describe(package.graph, package.encodings)
    sizes: Counter[str] = Counter()
    seen: set[str] = set()
    for tensor in (t for layer in info.layers for t in layer.inputs if t.constant):
        if tensor.name not in seen:
            seen.add(tensor.name)
            bits = package.encodings[tensor.name].bits if tensor.name in package.encodings else int(tensor.type.rpartition("_")[2])
            sizes[tensor.type] += -(-package.graph.tensor(tensor.name).size * bits // 8)
    rows = tuple((kind, f"{size}") for kind, size in sorted(sizes.items()))
    return Table(("Type of constants", "Bytes"), (*rows, ("all", str(sum(sizes.values())))))


def _footer(info: Info, known: dict[str, object]) -> str:
    megabytes = info.parameters * 4 / 1e6
    ops = ", ".join(sorted({layer.op for layer in info.layers}))
    return "\n".join(
        [
            f"Total parameters: {info.parameters} ({megabytes:.3g} MB assuming single precision float. "
            "This does not represent the actual memory requirement for the model. It provides the rough estimate)",
            f"Total MACs per inference: {_short(info.macs)} (100%)",
            f"Converter command: {known.get('converter_command', 'N/A')}",
            f"Quantizer command: {known.get('quantizer_command', 'N/A')}",
            f"DLC created with converter version: npukit {info.manifest.npukit_version if info.manifest else __version__}",
            f"Layers used by DLC: {ops}",
            f"Est. Steady-State Memory Needed to Run: {info.weight_bytes / 2**20:.1f} MiB",
        ]
    )
