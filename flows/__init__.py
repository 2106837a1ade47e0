"""The DAGs, readable as prose. Prefect deployments name them; nothing imports them."""
