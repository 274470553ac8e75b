"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow at making examples as well as at running them; neither is a fault of the code.
settings.register_profile("npukit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("npukit")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def no_aimet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that need a real AIMET ask for it; the others see none, and take seconds wherever there is one."""
    monkeypatch.delenv("AIMET_ENV_PYTHON", raising=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real pretrained models and reference files beside the project; tests that need it skip without it."""
    folder = ROOT.parent / "shared"
    if not (folder / "zoo").is_dir():
        pytest.skip("the folder ../shared with pretrained models is not here")
    return folder


@pytest.fixture(scope="session")
def zoo(shared: Path) -> Path:
    """The pretrained models and data."""
    return shared / "zoo"
