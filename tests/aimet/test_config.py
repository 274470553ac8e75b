"""The user's functions in a configuration: where they are found, and what is said of those that are no good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npukit.errors import NpukitError, UsageError
from npukit_aimet.config import judged, section


def document(callback: str) -> dict[str, Any]:
    data = {"calibration": {"dataloader_callback": callback}}
    return {"aimet_quantizer": {"datasets": data, "adaround": {"dataset": "calibration"}}}


@pytest.mark.parametrize("beside", [True, False], ids=["beside the YAML", "in the current folder"])
def test_a_dotted_callback_is_found(beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's need not be on PYTHONPATH."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    name = f"loaders_{'beside' if beside else 'current'}"
    (here / f"{name}.py").write_text("def two():\n    return [1, 2]\n")
    monkeypatch.chdir(there if beside else here)
    loader = section(document(f"{name}.two"), "adaround", here if beside else there).dataset()
    assert loader is not None
    assert list(loader) == [1, 2]


BAD = {
    "no callable": ("notcallable = 3", "notcallable", "has no function 'notcallable'"),
    "empty": ("def none():\n    return []", "none", "gave no samples"),
    "no iterable": ("def number():\n    return 3", "number", "returned int, not an iterable"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_loaders_are_named_by_their_path(case: str, tmp_path: Path) -> None:
    """Whatever a data loader is or gives, the message begins with its place in the YAML file."""
    text, name, expected = BAD[case]
    (tmp_path / "loaders.py").write_text(text)
    with pytest.raises(NpukitError, match=expected) as caught:
        list(section(document(f"loaders.py:{name}"), "adaround", tmp_path).dataset() or ())
    assert caught.value.message.startswith("$.datasets.calibration.dataloader_callback")


@pytest.mark.parametrize(("value", "expected"), [(float("nan"), "nan, not a finite number"), ("good", "str, not a number")])
def test_bad_scores_are_named_by_their_path(value: Any, expected: str) -> None:
    """NaN and text are no scores."""
    score = judged(lambda predictions, truth: value, lambda: None, "$.amp.eval_callback_for_phase2")
    with pytest.raises(UsageError, match=expected) as caught:
        score([{"y": np.zeros(1)}])
    assert caught.value.message.startswith("$.amp.eval_callback_for_phase2: ")
