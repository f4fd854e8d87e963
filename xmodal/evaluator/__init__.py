"""Embeds a split and reports its metrics. :mod:`xmodal.metrics` computes them; this only brings things together."""
from xmodal.evaluator.baseline import linear_cca_baseline
from xmodal.evaluator.embedding import (
    EMBED_BATCH,
    TwoViewModel,
    embed,
    embed_view,
    embedded_moments,
    tower_precision,
    write_embeddings,
)
from xmodal.evaluator.groups import check_groups, retrieve_groups
from xmodal.evaluator.hubs import HUB_BANK, find_hubs
from xmodal.evaluator.identification import MOST_KNOWN, check_identification, identify
from xmodal.evaluator.restoring import RestoringModel, restoring_errors
from xmodal.evaluator.retrieval import WITH_INTERVAL, EmbeddedSplit, embed_split, evaluate, metrics_of
from xmodal.evaluator.transfer import check_transfer, transfer
from xmodal.evaluator.verification import MATCHES, Verified, check_classes, verify
from xmodal.evaluator.within import CODE_BANK, Coder, check_within, retrieve_within

__all__ = [
    "CODE_BANK",
    "EMBED_BATCH",
    "HUB_BANK",
    "MATCHES",
    "MOST_KNOWN",
    "WITH_INTERVAL",
    "Coder",
    "EmbeddedSplit",
    "RestoringModel",
    "TwoViewModel",
    "Verified",
    "check_classes",
    "check_groups",
    "check_identification",
    "check_transfer",
    "check_within",
    "embed",
    "embed_split",
    "embed_view",
    "embedded_moments",
    "evaluate",
    "find_hubs",
    "identify",
    "linear_cca_baseline",
    "metrics_of",
    "restoring_errors",
    "retrieve_groups",
    "retrieve_within",
    "tower_precision",
    "transfer",
    "verify",
    "write_embeddings",
]
