"""Experiments (configs) -> results (JSON with provenance) -> tables (Markdown between markers). See README.md here."""
