"""xmodal: train, compare and use two-view embeddings for cross-modal retrieval."""
import os

# OpenMP's threads wait for each other by spinning, by default for milliseconds. On a machine that others use too, that
# makes small models a hundred times slower than one thread. A tenth of that costs a quiet machine a few percent. Counts
# only if set before torch is loaded, and never overrides what the user has set.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

from xmodal.config import TrainConfig, load_experiment
from xmodal.data import PairedData, PairSplit, load_data
from xmodal.errors import CheckpointError, DataError, ExperimentError, NumericalError, XmodalError
from xmodal.evaluator import embed, evaluate
from xmodal.layers import Bits, CCALayer, CCAReadout, Embedded, LearnedProjection, LengthNorm
from xmodal.linear import PLS, Identity, KernelCCA, LinearCCA
from xmodal.metrics import retrieval_metrics
from xmodal.networks import Autoencoders, CorrNet, TwoTower, VariationalAutoencoder, Verifier
from xmodal.objectives import (
    BarlowTwins,
    ByClass,
    Circle,
    CorrNetObjective,
    EckartYoung,
    EvidenceBound,
    InfoNCE,
    MatchOrNot,
    NeighbourhoodComponents,
    NoiseRegularised,
    PairwiseRanking,
    PredictiveSparse,
    Reconstruction,
    Siamese,
    SigmoidPairs,
    SoftDecorrelation,
    TraceNorm,
    Triplet,
    VICReg,
    WeightedSum,
)
from xmodal.ranges import Range
from xmodal.runs import load_run
from xmodal.search import Gallery
from xmodal.start import Start
from xmodal.trainer import fit

__version__ = "0.1.0"

__all__ = [
    "PLS",
    "Autoencoders",
    "BarlowTwins",
    "Bits",
    "ByClass",
    "CCALayer",
    "CCAReadout",
    "CheckpointError",
    "Circle",
    "CorrNet",
    "CorrNetObjective",
    "DataError",
    "EckartYoung",
    "Embedded",
    "EvidenceBound",
    "ExperimentError",
    "Gallery",
    "Identity",
    "InfoNCE",
    "KernelCCA",
    "LearnedProjection",
    "LengthNorm",
    "LinearCCA",
    "MatchOrNot",
    "NeighbourhoodComponents",
    "NoiseRegularised",
    "NumericalError",
    "PairSplit",
    "PairedData",
    "PairwiseRanking",
    "PredictiveSparse",
    "Range",
    "Reconstruction",
    "Siamese",
    "SigmoidPairs",
    "SoftDecorrelation",
    "Start",
    "TraceNorm",
    "TrainConfig",
    "Triplet",
    "TwoTower",
    "VICReg",
    "VariationalAutoencoder",
    "Verifier",
    "WeightedSum",
    "XmodalError",
    "embed",
    "evaluate",
    "fit",
    "load_data",
    "load_experiment",
    "load_run",
    "retrieval_metrics",
]
