"""Pure tensors and records: what every other package may import, and what imports nothing of trimkit but errors."""
