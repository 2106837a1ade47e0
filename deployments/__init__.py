"""What runs the system: the local stack, its certificate authority, the Prefect deployments."""
