"""ONNX's own node tests on the HTP: each is refused by check, or it quantizes and runs; none ends in an internal error."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from onnx.backend.test.case.test_case import TestCase as Case

from npukit.errors import ConstraintError, NpukitError
from npukit.graph import load
from npukit.plugins import Registry
from npukit.quantization import Request, check, open_session, quantize


def cases() -> list[Case]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they compute infinities on purpose
        from onnx.backend.test.case.node import collect_testcases

        return list(collect_testcases(None))


def walk(case: Case, registry: Registry) -> str:
    """How far a test comes: where it is refused, or "" when it runs. Anything but an NpukitError gets through.

    Fails when the op constraints accept the model and the backend then has no kernel for it.
    """
    stage, accepted = "load", False
    try:
        graph = load(case.model.SerializeToString())
        feeds = {name: np.asarray(value) for name, value in zip(graph.inputs, case.data_sets[0][0], strict=False)}
        stage = "check"
        accepted = check(Request(graph), backend="htp", registry=registry).verdict == "accepted"
        stage = "quantize"
        package = quantize(Request(graph), backend="htp", data=[feeds], registry=registry)
        stage = "run"
        with open_session(package, backend="htp", registry=registry) as session:
            session.run(feeds)
    except NpukitError as error:
        if accepted and (isinstance(error, ConstraintError) or stage == "run"):
            pytest.fail(f"{case.name} is accepted, then {stage} says: {error}")
        return stage
    return ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_node_test_ends_in_an_internal_error() -> None:
    """All of them, some 1,900; most of those that are refused have ops or types that the HTP does not have."""
    registry = Registry.load()
    arrays = [c for c in cases() if all(isinstance(v, np.ndarray) for v in c.data_sets[0][0])]
    plain = [c for c in arrays if not any(v.dtype.hasobject for v in c.data_sets[0][0])]
    reached = [walk(case, registry) for case in plain]
    assert len(reached) > 1000
    assert reached.count("") > len(reached) // 3
