"""From a module, a program or a file to a graph, by way of torch.export and torch.onnx."""

from __future__ import annotations

import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive import PT2ArchiveReader, is_pt2_package

from npukit.errors import DataError, ModelError, PluginError, UsageError
from npukit.graph import CANONICAL_OPSET, Graph, load
from npukit_torch.annotations import TRANSLATIONS, check_annotations, store_codes
from npukit_torch.failures import culprit, reason
from npukit_torch.names import name_after_modules

_EXAMPLE = "example=(x, ...) holds the arguments of forward by position, example={'x': x, ...} by name"
_CHOICE = "write what depends on values with torch.where, or leave it outside of the module"
_EXPORT = "torch.export.export(module, example) has to work first"
_OPS = "write it with other ops, or leave it outside of the module"


def read(source: Any, example: Any, symbols: Mapping[str, int], batch: int | None) -> Graph:
    """The graph of an nn.Module (traced with ``example``), of an ExportedProgram, or of a file that torch.export.save wrote.

    Nodes, and the tensors between them, are named after the modules that they come from. Quantize and dequantize ops of
    ``torch.ops.quantized_decomposed`` become Q/DQ nodes. Raises UsageError for an example that is missing or of no use,
    DataError for one that the module fails on, ModelError for what cannot be exported, EncodingError for annotations that stand
    for no grid, PluginError for a file with ops of a library that is not imported.
    """
    with _quiet():
        if isinstance(source, torch.nn.Module):
            program = _traced(source, example)
        elif example is not None:
            raise UsageError("an exported program has its inputs already", hint="example= is for modules")
        else:
            program = source if isinstance(source, torch.export.ExportedProgram) else _loaded(Path(source))
        exported = _to_onnx(program)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows keeps a file while it is mapped
        path = Path(folder) / "model.onnx"
        exported.save(path, external_data=True)
        return load(path, symbols=symbols, batch=batch)


def _traced(module: Any, example: Any) -> Any:
    """The exported program of a module, as it computes when it does not train."""
    if not isinstance(example, (tuple, Mapping)):
        found = "none was given" if example is None else f"found {type(example).__name__}"
        raise UsageError(f"a module is traced with an example, a tuple or a mapping: {found}", hint=_EXAMPLE)
    args, kwargs = ((), dict(example)) if isinstance(example, Mapping) else (example, {})
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        return torch.export.export(module, args, kwargs, strict=False)
    except Exception as error:
        _run(module, args, kwargs)  # when the module itself fails, that says more
        text = reason(error)
        hint = _CHOICE if "data-dependent" in text else _EXPORT
        raise ModelError(f"torch cannot export {culprit(error, module)}: {text}", hint=hint) from None
    finally:
        for part in training:
            part.training = True


def _run(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run the module on its example. Raises DataError when it fails."""
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    except Exception as error:
        raise DataError(f"{culprit(error, module)} fails on the example: {reason(error)}", hint=_EXAMPLE) from None


def _loaded(path: Path) -> Any:
    try:
        with path.open("rb"):
            whole = is_pt2_package(str(path))
    except OSError as error:
        raise UsageError(f"cannot read model '{path}': {error.strerror or error}") from None
    if not whole:
        raise ModelError(f"'{path}' is not an exported program, or it is truncated", hint="torch.export.save writes them")
    try:
        return torch.export.load(path)
    except Exception as error:
        unknown = _unknown_ops(path)
        if unknown:
            hint = "import the library that brings them; on the command line --plugin FILE.py imports a file that does"
            raise PluginError(f"'{path}' has ops that torch does not know: {', '.join(unknown)}", hint=hint) from None
        hint = "a newer torch may have written it; torch.export.load says more"
        raise ModelError(f"torch {torch.__version__} cannot read '{path}': {reason(error)}", hint=hint) from None


def _unknown_ops(path: Path) -> list[str]:
    """The ops of a saved program, "torchvision.nms", that nothing which is imported has registered."""
    with PT2ArchiveReader(str(path)) as archive:
        models = [archive.read_string(name) for name in archive.get_file_names() if name.startswith("models/")]
    ops = {op for text in models for op in re.findall(r"torch\.ops\.(\w+)\.(\w+)", text)}
    return sorted(f"{space}.{name}" for space, name in ops if not hasattr(getattr(torch.ops, space), name))


def _to_onnx(program: Any) -> Any:
    """The ONNX program, its nodes and tensors named after modules."""
    check_annotations(program)
    try:
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=CANONICAL_OPSET, verbose=False, custom_translation_table=dict(TRANSLATIONS)
        )
    except Exception as error:
        raise ModelError(f"{culprit(error)} has no form in ONNX: {reason(error)}", hint=_OPS) from None
    assert exported is not None  # with dynamo it returns a program
    store_codes(exported.model)
    name_after_modules(exported.model)
    return exported


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporter prints, logs and warns of on its way: whatever stops it, is raised."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
