"""Searches an experiment's best settings: python run_tune.py --model models/digits_ccal_cont.py --data digits"""
import sys

from xmodal.cli.run_tune import main

if __name__ == "__main__":
    sys.exit(main())
