"""MMR: maximal marginal relevance, important patches that are not like one already chosen."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._choosing import ChoosingMethod, cosines, signal, wide_dtype

__all__ = ["MMR", "marginal_relevance"]
