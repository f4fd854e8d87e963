"""What people read of runs: text blocks, curves. Formatting only."""
from xmodal.report.curves import MOST_EPOCHS, plot_curves, plot_precision_recall, plot_roc
from xmodal.report.text import (
    baseline_line,
    epoch_header,
    epoch_line,
    evaluation_block,
    group_block,
    hub_block,
    identification_block,
    restoring_block,
    transfer_block,
    verification_block,
    within_block,
    within_name,
)

__all__ = [
    "MOST_EPOCHS",
    "baseline_line",
    "epoch_header",
    "epoch_line",
    "evaluation_block",
    "group_block",
    "hub_block",
    "identification_block",
    "plot_curves",
    "plot_precision_recall",
    "plot_roc",
    "restoring_block",
    "transfer_block",
    "verification_block",
    "within_block",
    "within_name",
]
