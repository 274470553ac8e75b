"""What the flags of the quantizer mean to npukit."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from npukit.errors import UsageError
from npukit.quantization import Options

# The vendor's older names of methods.
_METHODS = {"tf": "min-max", "enhanced": "sqnr"}
_SCHEMAS = {"unsignedsymmetric": "unsigned-symmetric"}
_CONVOLUTIONS, _PRODUCTS = ("Conv", "ConvTranspose"), ("Gemm", "MatMul")


def options_of(args: Namespace, *, calibrated: bool) -> Options:
    """The options; without calibration only what concerns floats has an effect."""
    bias = f"float{args.float_bias_bitwidth}" if args.float_bias_bitwidth else ""
    floats: dict[str, Any] = {"float_type": f"float{args.float_bitwidth}", "float_bias": bias, "islands": True}
    if not calibrated:
        return Options(**floats)
    per_channel = (
        *(_CONVOLUTIONS if args.use_per_channel_quantization else ()),
        *(_PRODUCTS if args.use_per_row_quantization else ()),
    )
    return Options(
        activations=f"uint{args.act_bitwidth}",
        weights=f"{'u' if args.param_quantizer_schema == 'asymmetric' else ''}int{args.weights_bitwidth}",
        bias=f"int{args.bias_bitwidth}",
        per_channel=per_channel,
        calibration=_METHODS.get(args.act_quantizer_calibration, args.act_quantizer_calibration),
        weight_calibration=_METHODS.get(args.param_quantizer_calibration, args.param_quantizer_calibration),
        percentile=_percentile(args.percentile_calibration_value),
        scheme=_scheme(args),
        keep_weights=args.keep_weights_quantized,
        **floats,
    )


def _percentile(value: float) -> float:
    if not 90 <= value <= 100:
        raise UsageError(f"--percentile_calibration_value is {value:g}, it lies in 90..100")
    return value


def _scheme(args: Namespace) -> dict[str, Any]:
    schemas = [_SCHEMAS.get(s, s) for s in (args.act_quantizer_schema, args.param_quantizer_schema)]
    found: dict[str, Any] = {
        "activations": schemas[0],
        "weights": schemas[1],
        "bias_room": ("channel",) if args.adjust_bias_encoding else (),
        "bias_per_channel": args.enable_per_row_quantized_bias,
        "signed_channels": True,
    }
    if args.restrict_quantization_steps:
        found["limits"] = {f"int{args.weights_bitwidth}": steps(args.restrict_quantization_steps, args.weights_bitwidth)}
    return found


def steps(text: str, bits: int) -> tuple[int, int]:
    """ "-0x80 0x7F" as two numbers. Raises UsageError unless they are codes of a signed type around 0."""
    words = text.replace(",", " ").split()
    try:
        least, most = (int(word, 16) for word in words)
    except ValueError:
        hint = 'such as "-0x80 0x7F"'
        raise UsageError(f"--restrict_quantization_steps takes two hexadecimal numbers, found '{text}'", hint=hint) from None
    if not -(1 << (bits - 1)) <= least < 0 < most < 1 << (bits - 1):
        raise UsageError(f"--restrict_quantization_steps: {text} is no range of codes around 0 of {bits} bits")
    return least, most
