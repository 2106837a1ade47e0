"""The audit: Merkle trees, challenges, replays, gates. Imports what `training` imports."""
