"""The training engine. Imports torch, numpy and safetensors only (and `wire.hashes`, which is standard library)."""
