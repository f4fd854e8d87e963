"""Data sets of pairs: the contract, the files, the batches and the sets that come with the toolkit."""
from xmodal.data.batches import Batch, lone_batches, n_batches, pair_batches, view_batches
from xmodal.data.files import read_h5, write_h5
from xmodal.data.npz import read_npz, write_npz
from xmodal.data.pairs import PairedData, PairSplit, fingerprint
from xmodal.data.sets import load_data
from xmodal.data.streamed import StreamedView

__all__ = ["Batch", "PairSplit", "PairedData", "StreamedView", "fingerprint", "load_data", "lone_batches",
           "n_batches", "pair_batches", "read_h5", "read_npz", "view_batches", "write_h5", "write_npz"]
