"""The commands: one module per door, each with ``main(argv=None) -> int``."""
