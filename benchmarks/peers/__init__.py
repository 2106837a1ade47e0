"""Ours beside plain Dask, Flower, Ray Train and hivemind, on one machine in one run: `python -m benchmarks.peers`.

    network.py       machines: a network namespace each, behind 100 Mbit/s; bytes from the interfaces' counters
    setup.py         what one run is: scenario, speeds, faults, work; read by every process of it
    problem.py       the rows, the network and the batch that all share, and the single machine's score
    pace.py          how fast a machine is: the time that a step takes on it
    local.py         a worker's training in torch: what the four peers run
    record.py        what processes write down while a run lasts
    systems.py       what the harness asks of a system; starting and ending processes
    ours.py, plain_dask.py, flower.py, ray_train.py, hivemind_peers.py    one system each
    measure.py       one run, from start to its result
    table.py         results to the printed table
    environments.py  makes the peers' own environments

Modules that run in a peer's environment import nothing but the standard library, numpy and torch at the top.
"""
