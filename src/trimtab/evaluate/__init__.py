"""Paired comparison of methods at equal numbers of draws, intervals, targets, and the report.

Pools of judged candidates come in; nothing here draws, scores or judges. plots and page load matplotlib
only when a report is written.
"""

from trimtab.evaluate.compare import compare
from trimtab.evaluate.comparison import Comparison
from trimtab.evaluate.costs import Spent, with_costs
from trimtab.evaluate.intervals import Difference, Estimate, mean_estimate, paired_difference
from trimtab.evaluate.kept import KeptScores
from trimtab.evaluate.marks import Mark, cluster_of
from trimtab.evaluate.report import ReportData, RoundPoint, Transfer, write_report
from trimtab.evaluate.results import read_results
from trimtab.evaluate.targets import Target, missed_targets, parse_targets

__all__ = [
    "Comparison",
    "Difference",
    "Estimate",
    "KeptScores",
    "Mark",
    "ReportData",
    "RoundPoint",
    "Spent",
    "Target",
    "Transfer",
    "cluster_of",
    "compare",
    "mean_estimate",
    "missed_targets",
    "paired_difference",
    "parse_targets",
    "read_results",
    "with_costs",
    "write_report",
]
