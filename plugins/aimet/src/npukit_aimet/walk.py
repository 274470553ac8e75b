"""One trip through a model, layer by layer, on two paths at once: the float model and the model quantized so far.

Every layer is visited when everything before it has its final weights, and sees the second moments of its input on both paths.
The nodes between two layers run once per path and sample; activations that are still needed wait in a Replay, so memory does not
grow with the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from itertools import islice

import attrs
import numpy as np

from npukit.backend.ort import OrtModel
from npukit.diagnosis import mean_sqnr, total_powers
from npukit.encoding import Array, Encoding, fake_quantize
from npukit.encoding.formats import insert_qdq
from npukit.errors import DataError, ModelError
from npukit.events import Event
from npukit.graph import Graph, Node, Tensor, captured, reads
from npukit.quantization import Job
from npukit.replay import Piece, Replay, Step, cut
from npukit_aimet.batches import HOLDOUT, merged
from npukit_aimet.linear import OPS, Linear, Picks, linear_view
from npukit_aimet.moments import Gatherer, Moments
from npukit_aimet.reads import fixed_nodes, is_own

# Columns to look at: so many per weight of a row, more of them in narrow layers, where they cost little. Beyond this the choice
# of images matters more than the number of columns.
_PER_WEIGHT = 12
_WORK = 3e8  # multiply-accumulates of the second moments of one path
_MOST, _LEAST = 40_000, 1024
_WIDEST = 250_000_000  # entries of a matrix of second moments: 2 GB, and there are several


@attrs.frozen(eq=False)
class Visit:
    """A layer on the trip: ``seen`` are the moments of the samples to fit, ``unseen`` those held out (None with fewer than eight
    samples); ``weights`` (G, R, K) is the float matrix, float64, ``bias`` the float bias that may follow (None: there is none),
    ``encoding`` that of the weight."""

    layer: Linear
    encoding: Encoding
    weights: Array
    bias: Array | None
    seen: Moments
    unseen: Moments | None

    @property
    def all(self) -> Moments:
        """The moments of all samples."""
        return self.seen if self.unseen is None else self.seen + self.unseen

    @property
    def nearest(self) -> dict[str, Array]:
        """The weight as it is stored when nobody improves it, by name."""
        return {self.layer.weight: fake_quantize(self.layer.restore(self.weights).astype(np.float32), self.encoding)}

    def judged(self, losses: Array) -> Array:
        """Losses of rows (..., G, R), by which scales are chosen: those of the whole layer where rows share scales."""
        apart = self.layer.owners(self.encoding)[1]
        return losses if apart else np.broadcast_to(losses.sum((-2, -1), keepdims=True), losses.shape)

    def rescaled(self, values: Array) -> Array:
        """Values of rows (G, R) in the shape of the weight's scales."""
        return np.asarray(values.reshape(-1)[self.layer.owners(self.encoding)[0]])

    def refitted_bias(self, rounded: Array) -> dict[str, Array]:
        """The bias that makes up for the mean error of weights ``rounded`` (G, R, K), by name; nothing without a bias."""
        if self.bias is None:
            return {}
        shift = self.all.bias_shift(self.weights, rounded).reshape(self.bias.shape) / self.layer.gain
        with np.errstate(over="ignore"):
            bias = (self.bias + shift).astype(np.float32)
        return {self.layer.bias: bias} if np.isfinite(bias).all() else {}


Solve = Callable[[Visit], Mapping[str, Array]]
"""What a visit yields: new values of constants on the quantized path, by tensor name. It may raise UnsolvableError."""


class UnsolvableError(Exception):
    """A layer cannot be improved on its data; the message says why. Its weight is rounded to nearest, and the trip goes on."""


@attrs.frozen(eq=False)
class Trip:
    """What came of a walk: new values of constants, and the layers that could not be improved: weight -> which, and why."""

    changed: Mapping[str, Array]
    left: Mapping[str, str]


@attrs.frozen(eq=False)
class _Stage:
    """A piece of the graph; ``layer`` is its first node, if that is one. Nobody needs the tensors ``done`` after it."""

    layer: Linear | None
    piece: Piece
    done: tuple[str, ...]


def layers_of(graph: Graph, encodings: Mapping[str, Encoding]) -> tuple[list[Linear], list[str]]:
    """The layers with an integer weight of their own, in order; and what is left out, with the reason."""
    found, skipped, inner = [], [], captured(graph)
    computed = {name for node in fixed_nodes(graph) for name in node.outputs if name}
    for node in graph.nodes:
        if node.op in OPS and not node.domain and computed.intersection(node.inputs[:2]):
            skipped.append(f"{node.name}: its weight or its input is computed in the graph, from constants that were not folded")
            continue
        layer = linear_view(graph, node)
        if layer is None or layer.weight not in encodings or encodings[layer.weight].is_float:
            continue
        if layer.weight in graph.outputs:
            skipped.append(f"{node.name}: its weight is an output of the model")
        elif layer.weight in inner or not is_own(graph, layer.weight):
            skipped.append(f"{node.name}: its weight is shared")
        elif layer.groups * layer.width**2 > _WIDEST:
            skipped.append(f"{node.name}: {layer.width} weights in a row are too many for second moments")
        else:
            found.append(attrs.evolve(layer, bias="") if layer.bias in inner else layer)
    if not found and not skipped:
        skipped.append("every node: no Conv, ConvTranspose, Gemm or MatMul has a constant integer weight")
    return found, skipped


def walk(
    job: Job,
    encodings: Mapping[str, Encoding],
    layers: Iterable[Linear],
    solve: Solve,
    *,
    stage: str,
    limit: int | None = None,
    both: bool = True,
) -> Trip:
    """Visit ``layers`` in order and gather the constants that ``solve`` changed.

    A layer is rounded to nearest and left alone when its input is not finite, or when ``solve`` raises UnsolvableError. ``limit``
    is the most samples to use; without ``both`` the float path is left out, and its moments are those of the quantized one.
    Activations on the quantized path have their ``encodings``. Progress is reported as ``stage``. Raises DataError without
    samples, ModelError when the quantized model does not run.
    """
    if not (layers := list(layers)):
        return Trip({}, {})
    graph, reference = _settled(_stored(job.graph, encodings), encodings), _settled(job.reference, {})
    stages = _stages(reference, layers)
    total = sum(s.layer is not None for s in stages)
    changed: dict[str, Array] = {}
    left: dict[str, str] = {}
    with Replay(graph) as coded, Replay(reference) if both else nullcontext(coded) as plain:
        _fill(job, plain, coded, encodings, limit)
        done = 0
        for index, part in enumerate(stages):
            if part.layer is not None:
                fit, held = _observe(part.layer, plain, coded, (job.seed, index))
                visit = _visit(reference, part.layer, encodings[part.layer.weight], fit, held)
                try:
                    new = _solved(visit, solve)
                    changed |= new
                except UnsolvableError as reason:
                    left[part.layer.weight] = f"{part.layer.node.name}: {reason}"
                    new = visit.nearest
                coded.graph = coded.graph.with_tensors(Tensor.constant(name, value) for name, value in new.items())
                done += 1
                job.on_event(Event(stage, done, total, part.layer.node.name))
            for path, grids in ((plain, {}), (coded, encodings))[not both :]:
                _advance(path, part, grids)
    return Trip(changed, left)


def _solved(visit: Visit, solve: Solve) -> Mapping[str, Array]:
    """What ``solve`` makes of a layer; UnsolvableError where its data says nothing."""
    if not (visit.seen.is_finite and (visit.unseen is None or visit.unseen.is_finite)):
        raise UnsolvableError("its input is not finite, its weight is rounded to nearest")
    return solve(visit)


def left_alone(name: str, count: int, total: int) -> list[str]:
    """The note about layers that an optimizer could not improve, if there are any."""
    return [f"{name} leaves {count} of {total} layers alone: nothing did better on samples held out"] if count else []


def network_sqnr(job: Job, limit: int | None) -> float:
    """How near the quantized network comes to the float one on ``limit`` samples, in dB: ``mean_sqnr`` of its outputs.

    -inf where they cannot be compared, because they have no elements or a shape that depends on quantized values.
    """
    coded = insert_qdq(job.graph, job.encodings())
    with OrtModel(job.reference) as plain, OrtModel(coded, optimize=False) as quantized, suppress(DataError):
        wanted, got = (map(model.run, islice(job.data, limit)) for model in (plain, quantized))
        return mean_sqnr(*total_powers(wanted, got))
    return -np.inf


def rewrite(job: Job, decided: Mapping[str, Encoding], changed: Mapping[str, Array], skipped: Iterable[str], name: str) -> Job:
    """The job with new encodings and constants, and a note about every layer that was left out."""
    notes = [f"{name} leaves out {reason}" for reason in skipped]
    return job.decide(decided, (Tensor.constant(n, values) for n, values in changed.items()), *notes)


def _columns(layer: Linear, entries: int) -> int:
    """How many columns to take from each entry: enough for moments that fit all weights of a row, and no more."""
    affordable = min(_MOST, int(_WORK / layer.width**2)) // layer.groups
    return -(-max(_PER_WEIGHT * layer.width, affordable, _LEAST) // entries)


def _visit(graph: Graph, layer: Linear, encoding: Encoding, seen: Moments, unseen: Moments | None) -> Visit:
    weight = graph.constant(layer.weight)
    assert weight is not None  # a layer's weight is a constant
    return Visit(layer, encoding, layer.matrix(weight).astype(np.float64), graph.constant(layer.bias), seen, unseen)


def _stored(graph: Graph, encodings: Mapping[str, Encoding]) -> Graph:
    """The graph with all constants as they are stored, but for layers and biases, whose turn is later."""
    later = {n for node in graph.nodes if linear_view(graph, node) for n in node.inputs[:3]}
    grids = {n: e for n, e in encodings.items() if n not in later and n in graph.tensors and graph.tensor(n).is_float}
    constants = ((n, e, graph.tensor(n).data) for n, e in grids.items())
    return graph.with_tensors(Tensor.constant(n, fake_quantize(data, e)) for n, e, data in constants if data is not None)


def _settled(graph: Graph, encodings: Mapping[str, Encoding]) -> Graph:
    """The graph with constants for what no input reaches: computed once, not once per sample."""
    fixed = {id(node) for node in fixed_nodes(graph)}
    rest = tuple(node for node in graph.nodes if id(node) not in fixed)
    made = {name for node in graph.nodes if id(node) in fixed for name in node.outputs}
    wanted = [name for name in dict.fromkeys(n for node in rest for n in reads(graph, node)) if name in made]
    if not wanted:
        return graph.evolve(nodes=rest)
    step = Step.load(graph, Piece.of(graph, [node for node in graph.nodes if id(node) in fixed], wanted), encodings)
    with step.model:
        found = step.model.run({})
    return graph.evolve(nodes=rest).with_tensors(Tensor.constant(name, found[name]) for name in wanted)


def _stages(graph: Graph, layers: list[Linear]) -> list[_Stage]:
    """The nodes in order, cut in front of every layer."""
    by_node = {id(layer.node): layer for layer in layers}
    heads: list[Linear | None] = [None]
    chains: list[list[Node]] = [[]]
    for node in graph.nodes:
        if id(node) in by_node:
            heads.append(by_node[id(node)])
            chains.append([])
        chains[-1].append(node)
    pieces = cut(graph, chains)
    last = {name: index for index, piece in enumerate(pieces) for name in piece.inputs}
    done = (tuple(n for n in piece.inputs if last[n] == index) for index, piece in enumerate(pieces))
    return [_Stage(*parts) for parts in zip(heads, pieces, done, strict=True)]


def _fill(job: Job, plain: Replay, coded: Replay, encodings: Mapping[str, Encoding], limit: int | None) -> None:
    """Put the samples on both paths, quantized where the input is."""
    for feeds in merged(job, limit):
        if plain is not coded:
            plain.keep(feeds)
        coded.keep({n: fake_quantize(values, encodings[n]) if n in encodings else values for n, values in feeds.items()})
    if not len(coded):
        raise DataError("the data set is empty", hint="at least one sample is needed")


def _observe(layer: Linear, plain: Replay, coded: Replay, seed: tuple[int, int]) -> tuple[Moments, Moments | None]:
    """The moments of a layer's input, of the samples to fit and of those held out."""
    fit, held = Gatherer(), Gatherer()
    limit = _columns(layer, len(coded))
    for index, (x, quantized) in enumerate(zip(plain.read(layer.x), coded.read(layer.x), strict=True)):
        columns = layer.columns(x, Picks(limit, (*seed, index)))
        others = columns if x is quantized else layer.columns(quantized, Picks(limit, (*seed, index)))
        (held if index % HOLDOUT == HOLDOUT - 1 else fit).add(columns, others)
    found = fit.moments()
    assert found is not None  # there is a sample
    return found, held.moments()


def _advance(path: Replay, part: _Stage, encodings: Mapping[str, Encoding]) -> None:
    """Take all samples past a stage; what it makes is quantized, its inputs and constants are already."""
    if part.piece.outputs:
        made = {n for node in part.piece.nodes for n in node.outputs}
        step = Step.load(path.graph, part.piece, {n: e for n, e in encodings.items() if n in made})
        with step.model:
            try:
                path.extend(step)
            except ModelError as error:
                node = part.piece.nodes[0]
                where = f"with quantized tensors the nodes from '{node.name or node.outputs[0]}' ({node.op}) on do not run"
                hint = "where a shape is computed from quantized values, bind it with --onnx-define-symbol or --batch"
                raise ModelError(f"{where}: {error.message}", hint=hint) from None
    path.drop(part.done)
