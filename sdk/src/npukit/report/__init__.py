"""Text, JSON and HTML for people and scripts."""

from npukit.report.analysis import analysis_data, analysis_html, analysis_text
from npukit.report.json import to_json
from npukit.report.models import diff_text, info_text
from npukit.report.numbers import count, decibels, number, percent, shape, size
from npukit.report.sweep import sweep_csv, sweep_data, sweep_html, sweep_text
from npukit.report.table import table

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
    "sweep_csv",
    "sweep_data",
    "sweep_html",
    "sweep_text",
    "table",
    "to_json",
]
