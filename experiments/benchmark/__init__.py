"""Benchmarks: contenders, each in a process of its own, take turns; what is told are ratios of neighbouring turns.

turns.py     processes, turns, and the statistics of their times
worker.py    one contender: builds what it is asked for, and takes a turn when it is told to
report.py    the table, the files and the picture
suites/      what is measured, a file a subject
peers/       the same work by other libraries, used as their users would
"""
