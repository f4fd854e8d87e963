"""Draws curves of runs: python plot_log.py runs/*/log.jsonl --key "mrr_%s" --high_is_better [--out FILE] [--watch]"""
import sys

from xmodal.cli.plot_log import main

if __name__ == "__main__":
    sys.exit(main())
