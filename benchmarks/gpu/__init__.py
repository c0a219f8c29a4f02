"""All that has to be measured on a GPU, in one script of eight minutes: ``python -m benchmarks.gpu``."""
