"""Demonstrations in other formats into LeRobot data sets.

`run.py` is the way through; `mapping.py` says what a number of a foreign file means here; each further
module reads one kind of file. `sources.py` lists them, and is where a new one is added.
"""
