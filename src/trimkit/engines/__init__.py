"""Other engines than torch: export to ONNX, and the vision tower of an attached model by ONNX Runtime or OpenVINO."""

from __future__ import annotations

from trimkit.engines.sessions import ENGINES, check_engine
from trimkit.engines.tower import TowerEngine

__all__ = ["ENGINES", "TowerEngine", "check_engine"]
