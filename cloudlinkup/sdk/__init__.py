"""For Python programs of clients: using a delivered model."""
