"""The search for an experiment's best settings: trials on training and validation pairs, and the folder they go to."""
from xmodal.tuning.folder import TuneFolder
from xmodal.tuning.loop import Search, Stopped, without_test
from xmodal.tuning.sampling import importance
from xmodal.tuning.trial import Trial, best_of

__all__ = ["Search", "Stopped", "Trial", "TuneFolder", "best_of", "importance", "without_test"]
