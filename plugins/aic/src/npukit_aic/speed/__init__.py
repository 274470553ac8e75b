"""How fast a card would run a model, modelled from documented constants."""

from npukit_aic.speed.card import BASES, Card, Constant, card_of, constants
from npukit_aic.speed.costs import op_costs
from npukit_aic.speed.estimate import Estimate, Row, estimate, solve
from npukit_aic.speed.package import estimate_package, model_of_package
from npukit_aic.speed.plan import Plan, read_plan
from npukit_aic.speed.work import Model, Work, model_of

__all__ = [
    "BASES",
    "Card",
    "Constant",
    "Estimate",
    "Model",
    "Plan",
    "Row",
    "Work",
    "card_of",
    "constants",
    "estimate",
    "estimate_package",
    "model_of",
    "model_of_package",
    "op_costs",
    "read_plan",
    "solve",
]
