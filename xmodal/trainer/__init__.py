"""Training: one loop, what it shows, its optimizer, and how it stops."""
from xmodal.trainer.check import check_experiment
from xmodal.trainer.display import Display, Silent
from xmodal.trainer.loop import FitResult, fit
from xmodal.trainer.optimizer import make_optimizer

__all__ = ["Display", "FitResult", "Silent", "check_experiment", "fit", "make_optimizer"]
