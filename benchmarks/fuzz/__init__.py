"""Damaged and odd inputs of every kind: each must end in success or in one error line. See ``__main__``."""
