"""A local page to search with a run: python run_demo.py --run runs/emoji_infonce"""
import sys

from xmodal.cli.run_demo import main

if __name__ == "__main__":
    sys.exit(main())
