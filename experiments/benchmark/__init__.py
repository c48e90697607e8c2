"""Benchmarks: contenders, each in a process of its own, take turns; what is told are ratios of neighbouring turns.

turns.py     processes, turns, and the statistics of their times
worker.py    one contender: builds what it is asked for, and takes a turn when it is told to
report.py    the table and the files; picture.py: the picture of the ratios
suites/      what is measured, a file a subject
peers/       the same work by other libraries, used as their users would
presets.py   the configs of presets, changed; data.py: texts, pairs and pictures by chance, for those that need data
fits.py      how times grow; collectives.py: what devices send each other, by a program's text
"""
