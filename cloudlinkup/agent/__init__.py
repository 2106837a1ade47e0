"""The contributor's side: an outbound connection, one checked order at a time, training, commitment, openings."""
