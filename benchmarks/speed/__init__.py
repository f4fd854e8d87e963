"""Speed: one command, one table of ratios, one file of results for each kind of machine (see __main__.py)."""
