"""Attacks runs of this library: kills them, damages their files, fills disks.

`python -m tests.faults --help` is the command, docs/faults.md the manual.

    zygote.py    forks processes that need not import JAX again
    kill.py      SIGKILL at a random instant or before a chosen write
    damage.py    flips, cuts, empties, removes, replaces and fills up
    compare.py   a run's state, bit for bit, without times
    subjects.py  tiny runs of each kind, and the commands that read a run
    campaign.py  attacks by number, each judged
"""
