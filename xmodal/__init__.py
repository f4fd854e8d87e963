"""xmodal: train, compare and use two-view embeddings for cross-modal retrieval."""
__version__ = "0.0.1"
