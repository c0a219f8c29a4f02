"""Serving: the vLLM plugin, an OpenAI server on transformers, an encoder in front of an engine."""
