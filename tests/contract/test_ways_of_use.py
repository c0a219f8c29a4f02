"""Ways of running a model besides a plain call: drafts, chunks, compilers, offloading, adapters, quantised weights."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import CompileConfig, LlamaConfig, LlamaForCausalLM

import trimkit
from tests import tiny
from tests.contract.by_hand import hand_built
from tests.contract.families import FAMILIES
from tests.tiny import GREEDY

Batch = dict[str, torch.Tensor]
RANDOM: dict[str, Any] = {"method": "random", "budget": 0.2}
LONG: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}


@pytest.fixture
def model() -> Any:
    return tiny.llava()


@pytest.fixture
def batch() -> Batch:
    return tiny.llava_batch([1, 2], seed=2)


@pytest.fixture
def one() -> Batch:
    return tiny.llava_batch([2], seed=3)


def assert_hand_built(called: Any, stock: Any, batch: Batch) -> None:
    """Logits and answers of ``called``, attached, are those of ``stock`` on the reduced batch made by hand."""
    width = batch["input_ids"].shape[1]
    with torch.no_grad(), trimkit.reduce(called, **RANDOM) as trim:
        logits = called(**batch).logits
        tokens = called.generate(**batch, **GREEDY)[:, width:]
        images = trim.report.images
        assert trim.report.seconds.prefill > 0
    with torch.no_grad():
        built = hand_built(FAMILIES["llava"], stock, batch, images)
        expected = stock(**built).logits
        assert logits.shape == expected.shape
        assert logits.shape[1] < width - 20
        real = built["attention_mask"].bool()
        torch.testing.assert_close(logits[real], expected[real], rtol=1e-4, atol=1e-4)
        assert torch.equal(tokens, stock.generate(**built, **GREEDY))
    assert not {"generate", "forward"} & set(stock.__dict__) or hasattr(stock, "_hf_hook")


class TestDrafts:
    """Assisted decoding gives what plain decoding gives."""

    @pytest.fixture
    def expected(self, model: Any, one: Batch) -> torch.Tensor:
        with trimkit.reduce(model, **RANDOM):
            out: torch.Tensor = model.generate(**one, **LONG)
        assert out.shape[1] > one["input_ids"].shape[1] + 4, "the answer is too short to prove anything"
        return out

    def test_prompt_lookup(self, model: Any, one: Batch, expected: torch.Tensor) -> None:
        with trimkit.reduce(model, **RANDOM):
            assert torch.equal(model.generate(**one, **LONG, prompt_lookup_num_tokens=3), expected)

    def test_a_text_model_drafts(self, model: Any, one: Batch, expected: torch.Tensor) -> None:
        torch.manual_seed(5)
        draft = tiny.ready(LlamaForCausalLM(LlamaConfig(**tiny.TEXT)))
        with trimkit.reduce(model, **RANDOM):
            assert torch.equal(model.generate(**one, **LONG, assistant_model=draft), expected)

    @pytest.mark.parametrize("seed", [0, 1], ids=["all drafts accepted", "most refused"])
    @pytest.mark.parametrize("draft_attached", [False, True])
    @pytest.mark.parametrize("attached", [False, True])
    def test_a_model_with_images_drafts(
        self, model: Any, one: Batch, attached: bool, draft_attached: bool, seed: int
    ) -> None:
        draft = tiny.llava(seed)
        with contextlib.ExitStack() as stack:
            if attached:
                stack.enter_context(trimkit.reduce(model, **RANDOM))
            expected = model.generate(**one, **LONG)
            if draft_attached:
                stack.enter_context(trimkit.reduce(draft, **RANDOM))
            assert torch.equal(model.generate(**one, **LONG, assistant_model=draft), expected)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("size", [4, 7, 100])
def test_chunked_prefill(model: Any, batch: Batch, size: int, beams: int) -> None:
    chunked = model.generate(**batch, **GREEDY, num_beams=beams, prefill_chunk_size=size)
    if not torch.equal(chunked, model.generate(**batch, **GREEDY, num_beams=beams)):
        pytest.skip(f"stock generate of transformers {transformers.__version__} answers otherwise in chunks")
    with trimkit.reduce(model, **RANDOM):
        expected = model.generate(**batch, **GREEDY, num_beams=beams)
        assert torch.equal(model.generate(**batch, **GREEDY, num_beams=beams, prefill_chunk_size=size), expected)


def test_continuous_batching_takes_no_images(model: Any, batch: Batch) -> None:
    with (
        trimkit.reduce(model, **RANDOM),
        pytest.raises(trimkit.UnsupportedError, match="takes token ids alone and would lose the images"),
    ):
        model.generate(**batch, **GREEDY, cache_implementation="paged")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the compiler looks at every tensor's
class TestCompiled:
    """``torch.compile`` in every order; the backend is ``eager``, so that only what it traces is tested."""

    @pytest.fixture(autouse=True)
    def _fresh(self) -> None:
        torch.compiler.reset()

    @pytest.fixture
    def expected(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad(), trimkit.reduce(model, **RANDOM):
            return model(**batch).logits, model.generate(**batch, **GREEDY)

    def _check(self, called: Any, batch: Batch, expected: tuple[torch.Tensor, torch.Tensor]) -> None:
        with torch.no_grad():
            torch.testing.assert_close(called(**batch).logits, expected[0])
        assert torch.equal(called.generate(**batch, **GREEDY), expected[1])

    def test_a_compiled_wrapper(self, model: Any, batch: Batch, expected: Any) -> None:
        with trimkit.reduce(model, **RANDOM) as trim:
            self._check(torch.compile(model, backend="eager"), batch, expected)
            assert trim.report.seconds.prefill > 0

    def test_a_compiled_wrapper_is_not_attached(self, model: Any) -> None:
        with pytest.raises(trimkit.UnsupportedError, match="attach the model first, then compile it"):
            trimkit.attach(torch.compile(model, backend="eager"), **RANDOM)

    @pytest.mark.slow
    @pytest.mark.parametrize("first", ["attach", "compile"])
    @pytest.mark.parametrize("how", ["forward", "model"])
    def test_compiled_in_place(self, model: Any, batch: Batch, expected: Any, how: str, first: str) -> None:
        def compile_it() -> None:
            if how == "forward":
                model.forward = torch.compile(model.forward, backend="eager")
            else:
                model.compile(backend="eager")

        with torch.no_grad():
            stock = model(**batch).logits
        if first == "compile":
            compile_it()
            with torch.no_grad():  # what was compiled before must not be used on
                torch.testing.assert_close(model(**batch).logits, stock)
        with trimkit.reduce(model, **RANDOM):
            if first == "attach":
                compile_it()
            self._check(model, batch, expected)
        with torch.no_grad():
            torch.testing.assert_close(model(**batch).logits, stock)

    def test_a_static_cache_compiles_the_decoding_steps(self, model: Any, batch: Batch, expected: Any) -> None:
        """As ``generate`` does by itself on a GPU; nothing of trimkit breaks the graph."""
        graphs: list[Any] = []

        def backend(graph: Any, inputs: Any) -> Any:
            graphs.append(graph)
            return graph.forward

        config = CompileConfig(backend=backend, fullgraph=True, mode=None)
        config._compile_all_devices = True
        with trimkit.reduce(model, **RANDOM):
            out = model.generate(**batch, **GREEDY, cache_implementation="static", compile_config=config)
        assert torch.equal(out, expected[1])
        assert graphs, "nothing was compiled"

    def test_training_compiles_the_stock_part(self, model: Any, batch: Batch) -> None:
        labels = batch["input_ids"].masked_fill(batch["input_ids"] == tiny.IMAGE_TOKEN, -100)
        weight = model.model.multi_modal_projector.linear_1.weight
        gradients = []
        with trimkit.reduce(model.train(), **RANDOM):
            for called in (model, torch.compile(model, backend="eager")):
                model.zero_grad()
                called(**batch, labels=labels).loss.backward()
                gradients.append(weight.grad.clone())
        torch.testing.assert_close(*gradients)


class TestDispatched:
    """accelerate puts a ``forward`` of its own on the model and moves weights in and out."""

    def test_hooks(self, model: Any, batch: Batch) -> None:
        accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
        dispatched = accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
        own = dispatched.__dict__["forward"]
        assert_hand_built(dispatched, dispatched, batch)
        assert dispatched.__dict__["forward"] is own

    @pytest.mark.filterwarnings("ignore:You are calling .generate")  # so does the stock model in transformers 5.19
    def test_offloaded_weights(self, model: Any, batch: Batch) -> None:
        accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
        with trimkit.reduce(model, **RANDOM):
            expected = model.generate(**batch, **GREEDY)
        offloaded = accelerate.cpu_offload(model, execution_device="cpu")
        assert offloaded.device.type == "meta"
        with trimkit.reduce(offloaded, **RANDOM) as trim:
            assert torch.equal(offloaded.generate(**batch, **GREEDY), expected)
            assert torch.equal(offloaded.generate(**batch, **GREEDY), expected)
            assert trim.report.images[0].cached


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft calls what transformers renames
class TestAdapters:
    def test_lora(self, model: Any, batch: Batch) -> None:
        peft = pytest.importorskip("peft", reason="peft is not installed")
        torch.manual_seed(0)
        plain = model(**batch).logits
        config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        adapted = peft.get_peft_model(model, config).eval()
        assert not torch.allclose(adapted(**batch).logits, plain), "the adapter does nothing: the test proves nothing"
        assert_hand_built(adapted, adapted.get_base_model(), batch)
        with trimkit.reduce(adapted, **RANDOM) as trim, torch.no_grad():
            on = adapted(**batch).logits
            with adapted.disable_adapter():
                off = adapted(**batch).logits
                assert not trim.report.images[0].cached, "the vision tower has adapters, too"
            assert not torch.allclose(on, off)


class _Int8Linear(nn.Module):
    """Weights as 8-bit integers with a scale a row, as quantising libraries keep them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.scale = nn.Parameter(linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127, requires_grad=False)
        self.weight = nn.Parameter((linear.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = linear.bias

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(value, self.weight.to(value.dtype) * self.scale, self.bias)


def test_quantised_weights(model: Any, batch: Batch) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and name != "lm_head":
                setattr(module, name, _Int8Linear(child))
    assert sum(isinstance(module, _Int8Linear) for module in model.modules()) > 10
    assert_hand_built(model, model, batch)
