"""TRIM inside vLLM: ``pip install "trimkit[vllm]"`` and ``vllm serve CHECKPOINT``, with an unchanged OpenAI client.

vLLM finds ``plugin.register`` by the entry point group ``vllm.general_plugins``. Nothing of vLLM is patched: its classes are
subclassed, one file a family, and registered in their place. ``base_processor`` runs in the API server, where it reads the
question; ``base_model`` runs in the engine, where it chooses.
"""
