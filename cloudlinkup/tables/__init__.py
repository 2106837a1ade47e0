"""From a client's table to training rows: which URIs may be read, reading them, preparing them."""
