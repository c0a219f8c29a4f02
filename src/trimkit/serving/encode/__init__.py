"""An encoder in front of an engine: chat requests with pictures become text and embeddings for a text-only vLLM."""

from trimkit.serving.encode.language_model import RAW_CHAT_TEMPLATE, save_language_model
