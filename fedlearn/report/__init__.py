"""`report.html`: what a run or a comparison found, from its files alone, in one file to read.

It is a view: everything in it is computed from `result.json`, `compare.json`
and nothing else, so it can be made again at any time.
"""
