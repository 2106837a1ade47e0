"""Dask between the flow and its contributors. Works from a checkout only: nothing else imports `distributed`."""
