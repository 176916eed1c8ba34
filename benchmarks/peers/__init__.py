"""The servers that are measured: `python -m benchmarks.peers NAME WORK` runs one.

A peer is written as its own documentation would have it, in the fewest lines that do the work, with
TCP_NODELAY wherever it is not the default and a backlog as long as ours.
"""
