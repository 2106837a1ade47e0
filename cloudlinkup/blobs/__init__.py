"""Sealed blobs by job and hash."""
