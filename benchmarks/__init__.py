"""How fast is it, beside what else one could take? `python -m benchmarks` runs it all.

scenarios   what is measured, against whom, and what we want to reach
peers/      the servers, ours and others, each started in a process of its own
load        the clients, in one more process
measure     pairs of servers, in turns, several rounds
report      a table, a JSON file, charts
hostile     not about speed: clients that misbehave, for a minute
fairness    nor this: how long others wait while some take all that they are given
flood       the clients of that; its servers are `peers.fair`
"""
