"""Mutation testing of the arithmetic. See ``__main__``."""
