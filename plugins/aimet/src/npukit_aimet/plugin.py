"""The entry point of group ``npukit``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npukit.plugins import hookimpl

if TYPE_CHECKING:
    from npukit.quantization import Optimizer


@hookimpl
def register_optimizers() -> list[Optimizer]:
    from npukit_aimet.adaround import AdaRound
    from npukit_aimet.bias_correction import BiasCorrection
    from npukit_aimet.cle import CrossLayerEqualization
    from npukit_aimet.seq_mse import SequentialMse

    return [CrossLayerEqualization(), SequentialMse(), AdaRound(), BiasCorrection()]
