"""Compares runs, tested over queries and seeds: python run_compare.py runs/a runs/b [--baseline NAME] [--out x.tex]"""
import sys

from xmodal.cli.run_compare import main

if __name__ == "__main__":
    sys.exit(main())
