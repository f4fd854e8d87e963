"""``python -m xmodal`` is the console command ``xmodal``; torchrun calls it so: ``torchrun … -m xmodal train …``."""
import sys

from xmodal.cli.console import main

if __name__ == "__main__":
    sys.exit(main())
