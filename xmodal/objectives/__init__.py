"""Objectives: ``(Embedded, pairs) -> scalar`` to be minimised.

``pairs`` is the (n, 2) table of item indices of the batch's rows, or None when every item occurs once. Objectives that
contrast a row with the others use it so that a second caption of the same picture is not taken for a negative. An
objective with ``uses_labels`` is called with the classes of the batch's view-1 items as well.
"""
from xmodal.objectives.autoencoding import EvidenceBound, PredictiveSparse, Reconstruction
from xmodal.objectives.by_class import ByClass
from xmodal.objectives.contrastive import Circle, InfoNCE, SigmoidPairs
from xmodal.objectives.corrnet import CorrNetObjective
from xmodal.objectives.decorrelation import BarlowTwins, EckartYoung, SoftDecorrelation, VICReg
from xmodal.objectives.matching import shared_items
from xmodal.objectives.neighbours import NeighbourhoodComponents
from xmodal.objectives.noise import NoiseRegularised
from xmodal.objectives.ranking import PairwiseRanking, Siamese, Triplet
from xmodal.objectives.trace_norm import TraceNorm
from xmodal.objectives.verification import MatchOrNot
from xmodal.objectives.weighted import WeightedSum, loss_of_pairs, uses_labels

__all__ = [
    "BarlowTwins",
    "ByClass",
    "Circle",
    "CorrNetObjective",
    "EckartYoung",
    "EvidenceBound",
    "InfoNCE",
    "MatchOrNot",
    "NeighbourhoodComponents",
    "NoiseRegularised",
    "PairwiseRanking",
    "PredictiveSparse",
    "Reconstruction",
    "Siamese",
    "SigmoidPairs",
    "SoftDecorrelation",
    "TraceNorm",
    "Triplet",
    "VICReg",
    "WeightedSum",
    "loss_of_pairs",
    "shared_items",
    "uses_labels",
]
