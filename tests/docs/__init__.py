"""Tests of README, docs and result tables."""
