"""An OpenAI chat server on transformers: one model, one process, requests batched step by step."""
