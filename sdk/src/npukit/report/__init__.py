"""Text and JSON for people and scripts."""

from npukit.report._json import to_json
from npukit.report._models import diff_text, info_text
from npukit.report._numbers import count, decibels, number, percent, shape, size
from npukit.report._table import table

__all__ = ["count", "decibels", "diff_text", "info_text", "number", "percent", "shape", "size", "table", "to_json"]
