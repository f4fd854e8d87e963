"""Training: one loop, what it shows, its optimizer, and how it stops."""
from xmodal.trainer.check import check_experiment
from xmodal.trainer.display import Display, Silent
from xmodal.trainer.loop import fit
from xmodal.trainer.optimizer import make_optimizer
from xmodal.trainer.progress import FitResult
from xmodal.trainer.starting import Started, start_from
from xmodal.trainer.validation import judge_of

__all__ = ["Display", "FitResult", "Silent", "Started", "check_experiment", "fit", "judge_of", "make_optimizer",
           "start_from"]
