"""The emulated ``qaic``: ``qaic.Session`` runs ONNX models and QPCs on a Cloud AI 100 that is emulated by npukit."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npukit_aic.session import Session

__all__ = ["Session"]


def __getattr__(name: str) -> Any:
    """``Session``, whose libraries are imported when it is first asked for."""
    if name == "Session":
        from npukit_aic.session import Session

        return Session
    raise AttributeError(f"module 'qaic' has no attribute '{name}'")
