"""Finds the nearest items of the other view: python run_search.py --run runs/x --query "a red dog" """
import sys

from xmodal.cli.run_search import main

if __name__ == "__main__":
    sys.exit(main())
