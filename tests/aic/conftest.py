"""Fixtures that all tests of the aic plugin share."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cards_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has cards of its own, as have the processes that it starts: claims are kept in the temporary folder."""
    folder = tmp_path / "cards"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # of the models that qaic.Session compiles
    for name in ("NPUKIT_AIC_DEVICES", "NPUKIT_AIC_CARD"):
        monkeypatch.delenv(name, raising=False)
    return folder
