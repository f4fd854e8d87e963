"""Looking up the nearest items of the other view, in galleries of any size."""
from xmodal.search.gallery import Gallery, Neighbours

__all__ = ["Gallery", "Neighbours"]
