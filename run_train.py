"""Trains an experiment: python run_train.py --model models/digits_ccal_cont.py --data digits"""
import sys

from xmodal.cli.run_train import main

if __name__ == "__main__":
    sys.exit(main())
