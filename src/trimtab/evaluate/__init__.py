"""Paired comparison of methods at equal numbers of draws, intervals, targets, and the report.

Pools of judged candidates come in; nothing here draws, scores or judges. plots and page load matplotlib
only when a report is written.
"""

from trimtab.evaluate.compare import compare
from trimtab.evaluate.comparison import Comparison
from trimtab.evaluate.intervals import Difference, Estimate, mean_estimate, paired_difference
from trimtab.evaluate.report import ReportData, RoundPoint, Transfer, write_report
from trimtab.evaluate.targets import Target, missed_targets, parse_targets

__all__ = [
    "Comparison",
    "Difference",
    "Estimate",
    "ReportData",
    "RoundPoint",
    "Target",
    "Transfer",
    "compare",
    "mean_estimate",
    "missed_targets",
    "paired_difference",
    "parse_targets",
    "write_report",
]
