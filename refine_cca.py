"""Re-estimates a projection: python refine_cca.py --model models/digits_ccal_cont.py --data digits --n_train 500"""
import sys

from xmodal.cli.refine_cca import main

if __name__ == "__main__":
    sys.exit(main())
