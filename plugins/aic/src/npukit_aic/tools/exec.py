"""qaic-exec and qaic-compile: compile an ONNX model to a QPC, or run it with random data."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npukit.commands import check_writable
from npukit.errors import ConstraintError, NpukitError, UsageError, counted
from npukit.graph import write_atomic
from npukit_aic import options
from npukit_aic.tools.edge import guarded, say
from npukit_aic.tools.exec_flags import FLAGS, parse, usage

if TYPE_CHECKING:
    from npukit.package import Package

_SCHEMAS = ("quantization_schema_activations", "quantization_schema_constants")
_ONLY_HERE = ("batchsize", "retained_state", "mxfp6_matmul")
_OPERATORS = Path("OnnxSupportedOperators.txt")


def main(argv: Sequence[str] | None = None) -> int:
    """Run with ``argv`` (default: the process arguments). Returns 0 when all that was asked for is there, 1 when the model has a
    problem, 2 when the flags or files have one, 3 for a bug. What is wrong is said on stderr, on one line."""
    prog = Path(sys.argv[0]).name if argv is None and "qaic" in Path(sys.argv[0]).name else "qaic-exec"
    given: dict[str, Any] = {}

    def work(words: Sequence[str]) -> int:
        given.update(parse(words, prog, lambda text: say(f"note: {text}")))
        return _run(given, prog)

    def tell(error: NpukitError) -> None:
        if isinstance(error, ConstraintError) and {"v", "vvv"} & given.keys():
            for problem in dict.fromkeys(map(str, error.problems)):
                say(problem)
        say(f"error: {error}{_versions(given) if error.exit_code == 1 else ''}")

    return guarded(prog, work, argv, tell)


def _warn(text: str) -> None:
    say(f"warning: {text}")


def _run(given: Mapping[str, Any], prog: str) -> int:
    if given.get("h"):
        print(usage(prog))
        return 0
    if given.get("version"):
        print(f"{prog} of npukit-aic {version('npukit-aic')}, an emulator")
        return 0
    if given.get("operators_supported"):
        _write_operators()
        if "m" not in given:
            return 0
    chosen = _options(given)
    _check(given, chosen, prog)
    _compile(given, chosen)
    return 0


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options by qaic.Session's names, and those that only the command line has."""
    both = dict.fromkeys(_SCHEMAS, given["quantization_schema"]) if "quantization_schema" in given else {}
    names = {row.name for row in options.ROWS}
    known = {name: value for name, value in given.items() if name in names}
    return options.read(both | known, where="qaic-exec", strict=True) | {n: given[n] for n in _ONLY_HERE if n in given}


def _check(given: Mapping[str, Any], chosen: Mapping[str, Any], prog: str) -> None:
    """Raise UsageError for what would only fail after a long compilation."""
    if "m" not in given:
        raise UsageError("no model is given", hint=f"-m=MODEL.onnx; {prog} -h lists all flags")
    model, folder = Path(given["m"]), chosen["output_dir"]
    if not model.is_file():
        raise UsageError(f"-m: there is no model '{model}'")
    if model.suffix != ".onnx":
        raise UsageError(f"-m: '{model}' is no .onnx file", hint="export the model to ONNX first")
    if folder and Path(folder).exists():
        raise UsageError(f"-aic-binary-dir: '{folder}' is there already", hint="remove it, or name another folder")
    if given.get("compile_only") and not folder and not chosen["dump_profile"]:
        raise UsageError("-compile-only needs -aic-binary-dir=FOLDER", hint=f"{prog} -h lists all flags")
    for name in ("dump_profile", "dump_custom_io_config_template_file", "mdp_dump_partition_config"):
        if chosen[name]:
            check_writable(chosen[name])


def _compile(given: Mapping[str, Any], chosen: dict[str, Any]) -> None:
    from npukit_aic import cards
    from npukit_aic.compiler import compile_model, profile_model
    from npukit_aic.qpc import write_qpc
    from npukit_aic.quantized import quantizes

    card = chosen["card"] or cards.info(chosen["dev_id"]).soc.name
    print(f"Reading model {given['m']}")
    if chosen["dump_profile"]:
        count = profile_model(given["m"], chosen, card=card, note=_warn)
        print(f"Profile of {counted(count, 'tensor')} is in {chosen['dump_profile']}")
        return
    rest = "float16" if chosen["convert_to_fp16"] else "float32"
    print(f"Compiling for {card} in {f'int8, {rest} where there is no int8' if quantizes(chosen) else rest}")
    package = compile_model(given["m"], chosen, card=card, note=_warn)
    _tell_types(package.types, given)
    if chosen["output_dir"]:
        print(f"Binary is in {write_qpc(package, chosen['output_dir']).parent}")
    else:
        _infer(package, given, chosen)


def _tell_types(types: Mapping[str, str], given: Mapping[str, Any]) -> None:
    """What -v and -vvv print."""
    if given.get("v") or given.get("vvv"):
        print("Nodes: " + ", ".join(f"{count} in {kind}" for kind, count in sorted(Counter(types.values()).items())))
    for name, kind in types.items() if given.get("vvv") else ():
        print(f"  {name}: {kind}")


def _infer(package: Package, given: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    """Run random data on cores that are free; print what it took here, and what the card would take by the model of speed."""
    from npukit.graph import Tensor
    from npukit_aic import cards
    from npukit_aic.loaded import Loaded
    from npukit_aic.qpc import Qpc
    from npukit_aic.samples import random_samples
    from npukit_aic.speed import estimate_package

    qpc = Qpc.of(package)
    (feeds,) = random_samples({b.name: Tensor(b.name, str(b.dtype), b.shapes[0]) for b in qpc.inputs}, count=1)
    times: list[float] = []
    most, limit = given.get("num_iter", FLAGS["num-iter"].default), given.get("time")
    with cards.claim(chosen["dev_id"], chosen["aic_num_cores"] * chosen["num_activations"]):
        session = Loaded(qpc)
        session.run(feeds)  # what is only made once is not counted
        while sum(times) < limit if limit else len(times) < most:
            start = time.perf_counter()
            session.run(feeds)
            times.append(time.perf_counter() - start)
    mean = sum(times) / len(times)
    modelled = estimate_package(package, chosen)
    print(f"{counted(len(times), 'inference')} of random data, {mean * 1e3:.3f} ms each in the emulator")
    print(f"The card, modelled and not measured: {modelled.rate:.1f} inferences/s, {modelled.latency * 1e3:.3f} ms from end to end")


def _write_operators() -> None:
    """The ops of ONNX with a constraint row or a kernel, one per line."""
    import npukit

    target = npukit.target("aic")
    ops = {row.op for row in target.backend.constraints() if not row.domain}
    known = sorted(op for op in ops if target.backend.supports(op))
    write_atomic(_OPERATORS, [("\n".join(known) + "\n").encode()])
    print(f"{counted(len(known), 'op')} of ONNX are in {_OPERATORS}")


def _versions(given: Mapping[str, Any]) -> str:
    """The versions in the model's file, which errors of the model carry."""
    import onnx

    try:
        proto = onnx.load(given["m"], load_external_data=False)
    except Exception:  # it may be the model's file that is wrong
        return ""
    opsets = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in proto.opset_import)
    return f" [opset {opsets}; IR version {proto.ir_version}]"


if __name__ == "__main__":
    sys.exit(main())
