"""The page of ``trimkit demo``: pictures, kept patches and answers in a browser. Needs the extra ``demo`` (Gradio)."""
