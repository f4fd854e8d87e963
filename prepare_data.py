"""Prepare a data set: python prepare_data.py mnist_halves"""
import sys

from xmodal.cli.prepare_data import main

if __name__ == "__main__":
    sys.exit(main())
