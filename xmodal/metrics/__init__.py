"""Ranks and what follows from them, hubs, groups, classes, correlations, transfer, bootstrap; no model."""
from xmodal.metrics.bootstrap import Interval, bootstrap_interval, paired_bootstrap_difference
from xmodal.metrics.correlation import canonical_correlation, sum_correlation
from xmodal.metrics.groups import group_retrieval, split_ids
from xmodal.metrics.hubness import favour, hubness, occurrences, skewness
from xmodal.metrics.identification import few_shot_accuracy, identification, neighbour_accuracy, open_set
from xmodal.metrics.ranks import Ranks, retrieval_ranks
from xmodal.metrics.restoring import mean_squared_errors
from xmodal.metrics.retrieval import DIRECTIONS, PRIMARY, Primary, rank_metrics, retrieval_metrics
from xmodal.metrics.transfer import TransferAccuracy, transfer_accuracy, transfer_folds
from xmodal.metrics.verification import Judged, best_threshold, judge_pairs, roc, verification
from xmodal.metrics.within import Reductions, fit_reductions, within_codes, within_metrics

__all__ = [
    "DIRECTIONS",
    "PRIMARY",
    "Interval",
    "Judged",
    "Primary",
    "Ranks",
    "Reductions",
    "TransferAccuracy",
    "best_threshold",
    "bootstrap_interval",
    "canonical_correlation",
    "favour",
    "few_shot_accuracy",
    "fit_reductions",
    "group_retrieval",
    "hubness",
    "identification",
    "judge_pairs",
    "mean_squared_errors",
    "neighbour_accuracy",
    "occurrences",
    "open_set",
    "paired_bootstrap_difference",
    "rank_metrics",
    "retrieval_metrics",
    "retrieval_ranks",
    "roc",
    "skewness",
    "split_ids",
    "sum_correlation",
    "transfer_accuracy",
    "transfer_folds",
    "verification",
    "within_codes",
    "within_metrics",
]
