"""Runs compared with each other."""
from xmodal.comparison.compare import compare_runs

__all__ = ["compare_runs"]
