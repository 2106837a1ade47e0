"""The cell: a Dask scheduler and the gateway to its contributors, in one process. Run ``python -m services.cell``.

config.py    what a cell is told, and Dask's settings
cell.py      starts and stops all of it
server.py    the TLS port (uvicorn)
gateway.py   /ws, /blobs/{sha256}, /healthz
hello.py     who may come in
channel.py   calls over one contributor's connection
grants.py    which blobs a call may read and store
worker.py    a contributor as a Dask worker
"""
