"""Every combination of choices, tried on one profile: which of them loses least."""

from npukit.trials.axes import Axis
from npukit.trials.sweep import Sweep, sweep
from npukit.trials.trial import Evaluator, SweepRow

__all__ = ["Axis", "Evaluator", "Sweep", "SweepRow", "sweep"]
