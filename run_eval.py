"""Evaluates a run: python run_eval.py --model models/digits_ccal_cont.py --data digits [--V2_to_V1]"""
import sys

from xmodal.cli.run_eval import main

if __name__ == "__main__":
    sys.exit(main())
