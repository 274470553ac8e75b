"""Text, JSON and HTML for people and scripts."""

from npukit.report._analysis import analysis_data, analysis_html, analysis_text
from npukit.report._json import to_json
from npukit.report._models import diff_text, info_text
from npukit.report._numbers import count, decibels, number, percent, shape, size
from npukit.report._table import table

__all__ = [
    "analysis_data",
    "analysis_html",
    "analysis_text",
    "count",
    "decibels",
    "diff_text",
    "info_text",
    "number",
    "percent",
    "shape",
    "size",
    "table",
    "to_json",
]
