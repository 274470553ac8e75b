"""The entry point of group ``npukit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npukit.plugins import hookimpl

if TYPE_CHECKING:
    import argparse

    from npukit.quantization import Optimizer


@hookimpl
def register_optimizers() -> list[Optimizer]:
    from npukit_aimet.adaround import AdaRound
    from npukit_aimet.amp.optimizer import Amp
    from npukit_aimet.bias_correction import BiasCorrection
    from npukit_aimet.bridge.optimizers import AimetAdaround, AimetCle, AimetSeqMse
    from npukit_aimet.cle import CrossLayerEqualization
    from npukit_aimet.seq_mse import SequentialMse

    own = [CrossLayerEqualization(), SequentialMse(), AdaRound(), BiasCorrection(), Amp()]
    return [*own, AimetAdaround(), AimetSeqMse(), AimetCle()]


@hookimpl
def register_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    from npukit_aimet.bridge.command import add_commands

    add_commands(subparsers)
