"""The commands: each runs as on the command line, with a damaged file in one place."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from npukit.cli.main import main as npukit
from npukit.errors import UsageError
from npukit_aic.tools import exec as compiler
from npukit_aic.tools import opstats
from npukit_aic.tools.profiling import STATS
from npukit_qairt.main import main as qairt

from .readers import READERS, Reader


class BrokenPromiseError(Exception):
    """A command that ended in a way that it never should."""


def command(*words: str, out: str = "", run: Callable[[list[str]], int] = npukit) -> Callable[[Path], None]:
    """A command with the damaged file for "@": it ends with 0, or with 1 or 2 and no file more than there was before."""

    def read(path: Path) -> None:
        before = set(path.parent.rglob("*"))
        printed, said = io.StringIO(), io.StringIO()
        with contextlib.chdir(path.parent), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            code = run([word.replace("@", str(path)) for word in words])
        new = set(path.parent.rglob("*")) - before
        text = said.getvalue()
        if code not in (0, 1, 2) or "Traceback" in text:
            raise BrokenPromiseError(f"exit code {code}: {text[-600:]}")
        if code and new:
            raise BrokenPromiseError(f"exit code {code}, but it left {sorted(p.name for p in new)}")
        if code == 0 and out and not (path.parent / out).exists():
            raise BrokenPromiseError(f"exit code 0 without {out}")
        for left in sorted(new, reverse=True):
            left.rmdir() if left.is_dir() else left.unlink()
        if code:
            raise UsageError(text)

    return read


def _in_folder(name: str, command: Callable[[Path], None]) -> Callable[[Path], None]:
    """A command that is given the folder "given", where the damaged file is called ``name``."""

    def read(path: Path) -> None:
        given = path.parent / "given"
        shutil.copy(path, given / name)
        command(given)

    return read


def _tool(name: str) -> Callable[[list[str]], int]:
    return lambda words: qairt(name, words)


_OVERRIDE = ("--no-strict", "--overrides", "@")
_QUANTIZE = ("quantize", "model.onnx", "--backend", "htp", "-o", "out.dlc")
_TO_CPU = ("--backend", "cpu", "-o", "out.dlc")
_CONVERT = ("--input_network", "model.onnx", "--output_path", "out.dlc")
_EXEC = ("-m=model.onnx", "-aic-binary-dir=out", "-compile-only")
_COMPARE = ("compare_encodings", "--encoding_path1", "@", "--encoding_path2", "encodings.json", "--working_directory", "out")
_VERIFY = ("verification", "--inference_tensor", "given", "--reference_tensor", "results", "--working_directory", "out")
_DATA = ("--data", "data.npz")

COMMANDS: tuple[Reader, ...] = (
    Reader("info .onnx", command("info", "@"), corpus="onnx", weight=3),
    Reader("info .dlc", command("info", "@", "--json"), corpus="dlc", weight=3),
    Reader("check .onnx", command("check", "@", "--backend", "htp"), corpus="onnx", weight=3),
    Reader("check .dlc", command("check", "@"), corpus="dlc", weight=3),
    Reader("diff", command("diff", "@", "model.dlc"), corpus="dlc"),
    Reader("export", command("export", "@", "--format", "onnx-qdq", "-o", "out.onnx", out="out.onnx"), corpus="dlc", weight=2),
    Reader("run", command("run", "@", *_DATA, "-o", "out", out="out"), corpus="dlc", weight=2),
    Reader("convert .onnx", command("convert", "@", "-o", "out.dlc", out="out.dlc"), corpus="onnx"),
    Reader("quantize .onnx", command("quantize", "@", *_TO_CPU, *_DATA, out="out.dlc"), corpus="external"),
    Reader("quantize --data", command(*_QUANTIZE, "--data", "@", out="out.dlc"), corpus="data"),
    Reader("quantize --overrides", command(*_QUANTIZE, *_DATA, *_OVERRIDE, out="out.dlc"), corpus="encodings"),
    Reader("quantize --profile", command(*_QUANTIZE, "--data", "@", out="out.dlc"), corpus="profile"),
    Reader("check --soc-file", command("check", "model.onnx", "--backend", "htp:N1", "--soc-file", "@"), corpus="soc"),
    Reader("qairt-converter", command(*_CONVERT, "--config", "@", run=_tool("qairt-converter")), corpus="io_config"),
    Reader(
        "qairt-converter overrides",
        command(*_CONVERT, "--quantization_overrides", "@", run=_tool("qairt-converter")),
        corpus="encodings",
    ),
    Reader("compare_encodings", command(*_COMPARE, run=_tool("qairt-accuracy-debugger")), corpus="encodings", weight=3),
    Reader("verification", _in_folder("index.json", command(*_VERIFY, run=_tool("qairt-accuracy-debugger"))), corpus="results"),
    Reader("qaic-opstats", _in_folder(f"program{STATS}", command("--input-dir", "given", run=opstats.main)), corpus="opstats"),
    Reader("qaic-exec lists", command(*_EXEC, "-custom-IO-list-file=@", out="out", run=compiler.main), corpus="io_list"),
    Reader("qaic-exec profile", command(*_EXEC, "-load-profile=@", out="out", run=compiler.main), corpus="aic_profile"),
    Reader(
        "quantize --config", command(*_QUANTIZE, *_DATA, "--optimize", "adaround", "--config", "@", out="out.dlc"), corpus="config"
    ),
    Reader("qairt-dlc-info", command("--input_dlc", "@", run=_tool("qairt-dlc-info")), corpus="dlc"),
)


def schedule(readers: Sequence[Reader] = READERS, commands: Sequence[Reader] = COMMANDS, share: float = 0.01) -> list[float]:
    """How often each of ``(*readers, *commands)`` has its turn; commands together ``share`` of all."""
    total, rest = sum(r.weight for r in readers), sum(r.weight for r in commands)
    return [r.weight / total * (1 - share) for r in readers] + [r.weight / rest * share for r in commands]
