"""trimkit's page as a Hugging Face Space. The Space's variable MODEL names the model; without it the packaged one answers."""

from __future__ import annotations

import os

import torch

from trimkit.web.model import LazyModel
from trimkit.web.page import build_page, launch_options

device = "cuda" if torch.cuda.is_available() else "cpu"
page = build_page(LazyModel(os.environ.get("MODEL", "demo"), device))

if __name__ == "__main__":
    page.launch(**launch_options())
