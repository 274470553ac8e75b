"""Op constraints as data: what a backend accepts for each port of each op."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import yaml

from npukit.backend.soc import Soc, arch_version, within
from npukit.encoding import Encoding
from npukit.errors import PluginError, printable


def _names(value: Iterable[str]) -> frozenset[str]:
    return frozenset(value)


def _fixed(value: Mapping[str, Any] | None) -> Mapping[str, tuple[float, int]]:
    return {dtype: (float(scale), int(zero)) for dtype, (scale, zero) in (value or {}).items()}


def _spans(value: Mapping[int, Iterable[int]]) -> Mapping[int, tuple[int, int]]:
    return {int(axis): (int(least), int(most)) for axis, (least, most) in value.items()}


@attrs.frozen
class Port:
    """What one input or output of an op accepts.

    ``dtypes`` are encoding types, or plain ONNX types for tensors that are never quantized (int64 indices, bool); empty means
    any. ``granularity`` lists what is allowed of tensor, channel, block, lpbq; ``axis`` is the only channel axis allowed.
    ``symmetric``: None (free), "always", or "channel" (only where per-channel). ``same_as`` names a port that shares the grid
    ("in[0]"); with ``soft`` the tie is a preference that a fixed grid or an override may break. ``fixed`` gives, per encoding
    type, the only (scale, zero point) allowed. ``derived`` means scale = scale of in[0] x scale of in[1], zero point 0.
    ``bias`` is a bias whose grid the backend's Scheme makes in another way. ``power_of_two`` demands scales that are powers of two.
    ``constant`` requires a constant tensor, ``dynamic`` one that is not constant. ``dims`` gives for some axes the least and the
    largest size accepted, ``max_rank`` the highest rank. ``whole_blocks`` demands blocks that divide their axis. ``optional`` ports
    may be absent.
    """

    dtypes: frozenset[str] = attrs.field(default=frozenset(), converter=_names)
    granularity: frozenset[str] = attrs.field(default=frozenset({"tensor"}), converter=_names)
    axis: int | None = None
    symmetric: str | None = None
    same_as: str | None = None
    soft: bool = False
    fixed: Mapping[str, tuple[float, int]] = attrs.field(factory=dict, converter=_fixed)
    derived: bool = False
    bias: bool = False
    power_of_two: bool = False
    whole_blocks: bool = False
    constant: bool = False
    dynamic: bool = False
    dims: Mapping[int, tuple[int, int]] = attrs.field(factory=dict, converter=_spans)
    max_rank: int | None = None
    optional: bool = False


def _attributes(value: Mapping[str, Iterable[Any]]) -> Mapping[str, tuple[Any, ...]]:
    return {key: tuple(tuple(v) if isinstance(v, list) else v for v in allowed) for key, allowed in value.items()}


MEASURES = ("largest", "low", "high", "balance", "step", "rank")


def _measure(_: object, __: object, value: str) -> None:
    if value not in MEASURES:
        raise TypeError(f"measure '{value}' is none of {', '.join(MEASURES)}")


@attrs.frozen
class Span:
    """Where a form is right: the span of one measure of a tensor of the node.

    ``port`` names the tensor ("in[0]"), ``measure`` what is read of its encoding: the "largest" magnitude on the grid, the "low" or
    the "high" end, the "balance", which is the high end over the largest magnitude (1 where the range reaches at least as far above
    zero as below), the "step" from one value to the next; or the "rank" of its shape. ``over`` names a port by whose measure it is
    divided. It is fine from ``least`` up to ``most``, both included.
    """

    port: str = "in[0]"
    measure: str = attrs.field(default="largest", validator=_measure)
    over: str = ""
    least: float = float("-inf")
    most: float = float("inf")

    def __str__(self) -> str:
        over = f" over that of {self.over}" if self.over else ""
        return f"{self.measure} of {self.port}{over} {self.limits}"

    def holds(self, value: float) -> bool:
        """Whether a measured value is fine; the ends of a grid are rounded, as its scale is a float32."""
        slack = 1e-5
        return self.least - slack * abs(self.least) <= value <= self.most + slack * abs(self.most)

    @property
    def limits(self) -> str:
        """What is fine: "at least 1", "at most 4", "from 1 to 4"."""
        if self.least == float("-inf"):
            return f"at most {self.most:g}"
        return f"at least {self.least:g}" if self.most == float("inf") else f"from {self.least:g} to {self.most:g}"


def _spans_of(value: Any) -> tuple[Span, ...]:
    return tuple(Span(**row) if isinstance(row, Mapping) else row for row in _listed(value))


@attrs.frozen
class Caveat:
    """What a user must know of a form that is accepted: a finding with a rule name of its own.

    ``below`` limits it to chips before that architecture ("v69"), ``since`` to that one and later ones. ``severity`` is "warning",
    or "unknown" where sources contradict one another. What else is given limits it to nodes like that: ``dtypes`` are types of
    ``port``, ``fine`` is a span, or several, that they are outside of, ``behind`` are ops that make in[0], ``joined`` ops that take
    out[0] together with in[0], as the Mul of x * Sigmoid(x) does.
    """

    rule: str
    message: str
    hint: str = ""
    below: str = ""
    severity: str = "warning"
    since: str = ""
    dtypes: frozenset[str] = attrs.field(default=frozenset(), converter=_names)
    port: str = "in[0]"
    fine: tuple[Span, ...] = attrs.field(default=(), converter=_spans_of)
    behind: frozenset[str] = attrs.field(default=frozenset(), converter=_names)
    joined: frozenset[str] = attrs.field(default=frozenset(), converter=_names)

    def __str__(self) -> str:
        where = "" if self.port == "in[0]" else f"{self.port} "
        types = f" ({where}{'|'.join(sorted(self.dtypes))})" if self.dtypes else ""
        fine = f"; fine is {' or '.join(map(str, self.fine))}" if self.fine else ""
        return f"{self.rule}{types}: {self.message}{fine}"

    def concerns(self, soc: Soc) -> bool:
        """Whether it is about a chip."""
        return within(soc, self.since, "") and not (self.below and soc.version >= arch_version(self.below))


def _caveats(value: Any) -> tuple[Caveat, ...]:
    return tuple(Caveat(**row) if isinstance(row, Mapping) else row for row in _listed(value))


def _listed(value: Any) -> Iterable[Any]:
    """What a row gives as one or as a list."""
    return () if value is None else value if isinstance(value, list | tuple) else (value,)


def _ports(rows: Iterable[Port | Mapping[str, Any]]) -> tuple[Port, ...]:
    return tuple(row if isinstance(row, Port) else Port(**row) for row in rows)


@attrs.frozen
class OpConstraint:
    """One accepted form of an op; an op may have several, and a node is legal when one of them accepts all its ports.

    ``variadic`` repeats the last input port for all further inputs. ``attributes`` maps ONNX attributes to allowed values;
    ``min_arch`` is the first architecture that has this form, ``max_arch`` the last one, ``features`` what a SoC must have
    (``Soc.features``), ``max_rank`` the highest rank of in[0]. ``source`` and
    ``confidence`` (high, medium, low) say where the row comes from. ``caveat``, one or a list, are findings about nodes of this
    form: accepted, with a result that may be wrong.
    """

    op: str
    inputs: tuple[Port, ...] = attrs.field(converter=_ports)
    outputs: tuple[Port, ...] = attrs.field(converter=_ports)
    source: str
    confidence: str = "high"
    domain: str = ""
    native: str = ""
    variant: str = ""
    variadic: bool = False
    attributes: Mapping[str, tuple[Any, ...]] = attrs.field(factory=dict, converter=_attributes)
    min_rank: int = 0
    max_rank: int | None = None
    min_arch: str = ""
    max_arch: str = ""
    features: frozenset[str] = attrs.field(default=frozenset(), converter=_names)
    caveat: tuple[Caveat, ...] = attrs.field(default=(), converter=_caveats)
    doc: str = ""

    def missing(self, soc: Soc) -> str:
        """What a chip lacks for this form, "" when nothing: "v73 or later", "up to v69", "the feature 'depthwise'"."""
        if not within(soc, self.min_arch, ""):
            return f"{self.min_arch} or later"
        if not within(soc, "", self.max_arch):
            return f"an architecture up to {self.max_arch}"
        absent = sorted(name for name in self.features if not soc.features.get(name))
        return f"the feature '{absent[0]}'" if absent else ""

    def input_port(self, index: int) -> Port | None:
        """The port of input ``index``; the last one repeats when variadic; None when the op takes no such input."""
        if index < len(self.inputs):
            return self.inputs[index]
        return self.inputs[-1] if self.variadic and self.inputs else None

    def output_port(self, index: int) -> Port | None:
        """The port of output ``index``; the last one repeats."""
        return self.outputs[min(index, len(self.outputs) - 1)] if self.outputs else None


@attrs.frozen
class Problem:
    """One finding of the validator.

    ``severity`` is "error" (refused), "warning" (accepted, with a risk) or "unknown" (the rules cannot tell). ``rule`` is the
    short name of the rule; ``tensor`` may be "" when the node as a whole is meant.
    """

    severity: str
    rule: str
    node: str
    op: str
    tensor: str
    message: str
    hint: str = ""
    source: str = ""

    def __str__(self) -> str:
        where = f"node '{self.node}' ({self.op})" + (f", tensor '{self.tensor}'" if self.tensor else "")
        return printable(f"{self.severity}: {where}: {self.message} [{self.rule}]" + (f"; {self.hint}" if self.hint else ""))


def load_constraints(path: Path) -> tuple[OpConstraint, ...]:
    """Read op constraints from a YAML file: a list of mappings with the fields of OpConstraint and Port.

    A row may give ``op`` as a list: it then stands for one row per op.
    """
    rows = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    found = []
    for row in rows:
        ops = row.pop("op")
        try:
            found += [OpConstraint(op=op, **row) for op in ([ops] if isinstance(ops, str) else ops)]
        except TypeError as error:
            raise PluginError(f"{path}: constraint row for {ops}: {error}") from None
    return tuple(found)


def grid_matches(encoding: Encoding, fixed: Mapping[str, tuple[float, int]]) -> bool:
    """Whether ``encoding`` is the fixed grid of its type (relative scale tolerance 1e-6), or its type has none."""
    if encoding.dtype not in fixed:
        return True
    scale, zero = fixed[encoding.dtype]
    return encoding.steps.size == 1 and abs(float(encoding.steps) / scale - 1) < 1e-6 and int(encoding.zeros) == zero
