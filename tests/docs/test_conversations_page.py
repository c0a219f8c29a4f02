"""What docs/conversations.md says of caches: what stock refuses and takes, and what its blocks print."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from tests import tiny
from tests.docs.test_readme import ROOT, blocks, needs_demo
from tests.tiny import CACHE, GREEDY, IMAGE_TOKEN

PAGE = ROOT / "docs" / "conversations.md"
REPLY: dict[str, Any] = {**GREEDY, "suppress_tokens": [IMAGE_TOKEN]}


def test_stock_refuses_pictures_beside_a_filled_cache_and_goes_on_without_them() -> None:
    model, inputs = tiny.llava(), tiny.llava_batch([1], seed=2)
    cache = DynamicCache(config=model.config.text_config)
    out = model.generate(**inputs, **REPLY, **{CACHE: cache})
    ids = torch.cat([out, torch.tensor([[6, 7, 41]])], dim=1)
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(**text, pixel_values=inputs["pixel_values"], **REPLY)
    held = cache.get_seq_length()
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        model.generate(**text, pixel_values=inputs["pixel_values"], **REPLY, **{CACHE: cache})
    assert cache.get_seq_length() == held
    assert torch.equal(model.generate(**text, **REPLY, **{CACHE: cache}), expected)
    assert "`Image features and image tokens do not match`" in PAGE.read_text(encoding="utf-8")


@needs_demo
def test_what_the_blocks_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both answers are right, the second question is asked on a cache, and what is used again is as the page says."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("blocks_of_conversations")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for source, _ in blocks(PAGE, "python"):
        exec(compile(source, str(PAGE), "exec", dont_inherit=True), vars(module))
    first, second, counts = capsys.readouterr().out.splitlines()
    assert first.endswith("0 columns used again")
    assert " image tokens, " in second
    assert not second.endswith(" 0 columns used again")
    assert [count > 0 for count in module.counts] == [False, True]
    assert module.counts[1] > int(second.split()[-4])  # the text before the picture, against all of the first turn
    assert counts == str(module.counts)
