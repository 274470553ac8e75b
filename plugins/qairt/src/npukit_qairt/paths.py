"""Files that the tools read and write."""

from __future__ import annotations

from pathlib import Path

from npukit.commands import check_writable, existing
from npukit.errors import UsageError
from npukit_qairt.vendor import refuse_vendor_dlc

_FRAMEWORKS = {".pb": "TensorFlow", ".tflite": "TFLite", ".gguf": "GGUF", ".pt": "TorchScript", ".pth": "TorchScript"}


def model_file(text: str) -> Path:
    """A model that is read. Raises UsageError when it is missing, or a DLC of the vendor's tools."""
    path = existing(text)
    refuse_vendor_dlc(path)
    return path


def source_file(text: str) -> Path:
    """A model to convert. Raises UsageError for one of a framework that is not read here."""
    path = model_file(text)
    if path.suffix in _FRAMEWORKS:
        hint = "export it to ONNX and convert that"
        raise UsageError(f"{path} is a model of {_FRAMEWORKS[path.suffix]}, which is not read here", hint=hint)
    if path.suffix == ".dlc":
        raise UsageError(f"{path} is a DLC already", hint="qairt-quantizer takes it")
    return path


def output_file(text: str | None, source: Path, ending: str) -> Path:
    """The file to write: the one named, else beside the source."""
    return check_writable(text or source.with_name(source.stem + ending))
