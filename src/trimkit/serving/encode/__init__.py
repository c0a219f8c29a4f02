"""An encoder in front of an engine: chat requests with pictures become text and embeddings for a text-only vLLM."""
