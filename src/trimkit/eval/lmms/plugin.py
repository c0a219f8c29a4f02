"""trimkit as a model of lmms-eval: ``lmms-eval --model trimkit --model_args pretrained=...,method=trim --tasks ...``.

lmms-eval finds it by the entry point ``lmms_eval.models``; nothing else imports this module. Model arguments are those of
``Trimkit``; whatever else is given there is an option of the method. Made for lmms-eval 0.7.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from loguru import logger
from PIL import ImageFile

from trimkit.attach import reduce
from trimkit.config import call_options, configured, exported_reduction
from trimkit.core.confidence import fallback_of
from trimkit.errors import InputError, UnsupportedError
from trimkit.eval.identity import method_identity, weights_identity
from trimkit.eval.journal import Journal, fingerprint
from trimkit.eval.lmms.arguments import cut_at, fallback_said, generation_of, positive
from trimkit.eval.rows import Reply, Row, answer, batches
from trimkit.images import load_image
from trimkit.io.provenance import versions
from trimkit.loading import load_model
from trimkit.methods import Method

__all__ = ["Trimkit", "manifest", "run_settings"]


def manifest() -> ModelManifest:
    """What the entry point gives to lmms-eval."""
    return ModelManifest(model_id="trimkit", simple_class_path=f"{__name__}.Trimkit")


class Trimkit(lmms):  # type: ignore[misc]  # lmms-eval is not typed
    """A model that answers with reduced image tokens.

    Args:
        pretrained: a hub id, a directory, or ``demo``; any family that ``trimkit models`` lists.
        method, positions, scorer, cache_images: as ``trimkit.reduce`` takes them.
        fallback: ``full``, ``none``, or the fields of a ``trimkit.Fallback`` as JSON; image tokens of all rungs are counted.
        config: a file that ``trimkit calibrate`` wrote; what is given beside it wins, as ``method`` does. An exported
            checkpoint's own settings hold where there is none.
        batch_size: rows per ``generate`` call.
        device, dtype: as ``trimkit.loading.load_model`` takes them.
        journal: a file of finished rows (or an open ``Journal``). A run that was stopped goes on where it was when it is
            started again with the same file and settings. Several runs may be given one file, one after the other.
        loaded: a model and its processor, instead of loading ``pretrained``.
        max_batch_size: not used; lmms-eval passes it.
        **options: fields of the method, for example ``budget``.

    Attributes:
        arm, about: a name that tells methods with their options apart, and what it stands for.
        skipped: rows that could not be asked, as ``{"task", "id", "reason"}``. lmms-eval scores them as empty answers.
        tokens: by task: ``[image tokens before, after, rows]``.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "llava-hf/llava-1.5-7b-hf",
        *,
        method: str | Method | None = None,
        config: str | None = None,
        batch_size: int | str = 1,
        device: str = "auto",
        dtype: str = "auto",
        positions: Any = None,
        fallback: Any = None,
        scorer: Any = None,
        cache_images: int = 32,
        journal: str | Journal | None = None,
        loaded: tuple[Any, Any] | None = None,
        max_batch_size: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.batch_size = positive(batch_size)
        own = None if config else exported_reduction(pretrained)
        chosen = configured(config, method, own, **options)
        call = {"positions": "auto", **call_options(config, own)}
        given = {"positions": positions, "fallback": fallback_said(fallback), "scorer": scorer}
        call |= {name: value for name, value in given.items() if value}
        scorer = call.get("scorer")
        place = self._take_part(device)
        model, self._processor = loaded or load_model(pretrained, device=place, dtype=dtype)
        call["fallback"] = None if call.get("fallback") == "none" else fallback_of(call.get("fallback"))
        self._trim = reduce(model, self._processor, method=chosen, cache_images=cache_images, **call)
        shown = scorer if scorer is None or isinstance(scorer, str) else type(scorer).__name__
        options = chosen.model_dump(mode="json")
        self.about = {"method": chosen.name, "budget": chosen.budget.to_plain(), "options": options}
        again = [] if call["fallback"] is None else [call["fallback"].to_plain()]
        self.arm = f"{method_identity(chosen)}-{fingerprint([call['positions'], shown, *again])}"
        self._journal = self._opened(journal, model, {"model": pretrained, "batch_size": self.batch_size})
        self.skipped: list[dict[str, str]] = []
        self.tokens: dict[str, list[int]] = {}

    @property
    def device(self) -> Any:
        """Where the model is; lmms-eval asks."""
        return self._trim.model.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer every request, in order.

        Raises:
            InputError: no row of a task could be asked, or the journal holds another question for a row.
        """
        names = _names(requests)
        replies: list[Reply | None] = [self._held(request, name) for request, name in zip(requests, names, strict=True)]
        with self._trim:
            for batch in self._batches(requests):
                todo = [index for index in batch if replies[index] is None]
                if not todo:
                    continue
                answered = self._answer([requests[index] for index in todo])
                self._keep([requests[index] for index in todo], [names[index] for index in todo], answered)
                for index, reply in zip(todo, answered, strict=True):
                    replies[index] = reply
        done = [reply for reply in replies if reply is not None]
        self._account(requests, names, done)
        return [reply.text for reply in done]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not covered.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError("trimkit answers by generating: choose tasks whose output_type is generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not covered.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError("trimkit answers single questions: choose tasks whose output_type is generate_until")

    def _take_part(self, device: str) -> str:
        """This process's share of the rows, and its device, where ``accelerate launch`` started several."""
        from accelerate import Accelerator

        self.accelerator = Accelerator()
        if self.accelerator.num_processes == 1:
            return device
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        return str(self.accelerator.device)

    def _opened(self, journal: str | Journal | None, model: Any, config: Mapping[str, Any]) -> Journal | None:
        if journal is None or isinstance(journal, Journal):
            return journal
        path = str(journal) if self.world_size == 1 else f"{journal}.{self.rank}-of-{self.world_size}"
        return Journal(path, {**config, **run_settings(model), "weights": weights_identity(model)})

    def _batches(self, requests: Sequence[Any]) -> list[list[int]]:
        """The same batches whatever is done already: an answer must not depend on where a run was interrupted."""
        keys = [(request.args[4], fingerprint(_plain(request.args[1]))) for request in requests]
        return batches(keys, self.batch_size)

    def _row(self, request: Any) -> Row:
        context, _, to_visual, doc_id, task, split = request.args
        try:
            with _whole_pictures():
                pictures = to_visual(self.task_dict[task][split][doc_id]) if to_visual is not None else []
                return Row(context, [load_image(picture) for picture in pictures or []])
        except Exception as error:  # a damaged picture, where the data set decodes it, in as many ways as there are
            return Row(context, problem=" ".join(str(error).split())[:200] or type(error).__name__)

    def _answer(self, requests: Sequence[Any]) -> list[Reply]:
        """A batch; rows without pictures are asked apart, since processors take all or none."""
        rows = [self._row(request) for request in requests]
        generation, until = generation_of(requests[0].args[1])
        replies: dict[int, Reply] = {}
        for pictured in (True, False):
            mine = [index for index, row in enumerate(rows) if bool(row.images) is pictured]
            answered = answer(self._trim, self._processor, [rows[index] for index in mine], **generation)
            replies.update(zip(mine, answered, strict=True))
        return [cut_at(replies[index], until) for index in range(len(rows))]

    def _held(self, request: Any, name: str) -> Reply | None:
        """What the journal has of a row."""
        if self._journal is None:
            return None
        row = self._journal.get(self._task(request), name)
        if row is None:
            return None
        if row["asked"] != _asked(request):
            raise InputError(
                f"the journal {str(self._journal.path)!r} holds another question for row {name} of {request.args[4]}: "
                "the task has changed; give another file"
            )
        full, kept = row["tokens"]
        return Reply(row["answer"], full, kept, row["skipped"])

    def _keep(self, requests: Sequence[Any], names: Sequence[str], replies: Sequence[Reply]) -> None:
        if self._journal is None:
            return
        rows = {
            name: {
                "asked": _asked(request),
                "answer": reply.text,
                "tokens": [reply.tokens_full, reply.tokens_kept],
                "skipped": reply.skipped,
            }
            for request, name, reply in zip(requests, names, replies, strict=True)
        }
        self._journal.add(self._task(requests[0]), rows)

    def _task(self, request: Any) -> str:
        return f"{self.arm}/{request.args[4]}"

    def _account(self, requests: Sequence[Any], names: Sequence[str], replies: Sequence[Reply]) -> None:
        """Count, name and report what was skipped."""
        reasons: dict[str, list[str]] = collections.defaultdict(list)
        for request, name, reply in zip(requests, names, replies, strict=True):
            task = request.args[4]
            counts = self.tokens.setdefault(task, [0, 0, 0])
            self.tokens[task] = [counts[0] + reply.tokens_full, counts[1] + reply.tokens_kept, counts[2] + 1]
            if reply.skipped is not None:
                reasons[task].append(reply.skipped)
                self.skipped.append({"task": task, "id": name, "reason": reply.skipped})
                logger.warning(f"trimkit: row {name} of {task} is skipped: {reply.skipped}")
        for task, (full, kept, rows) in self.tokens.items():
            asked = max(rows - sum(row["task"] == task for row in self.skipped), 1)
            said = f"{kept / asked:.1f} of {full / asked:.1f} image tokens a row, {len(reasons[task])} of {rows} rows skipped"
            logger.info(f"trimkit: {task}, method {self._trim.method.name}: {said}")
            if rows and len(reasons[task]) == rows:
                raise InputError(f"no row of {task} could be asked: {reasons[task][0]}")


@contextlib.contextmanager
def _whole_pictures() -> Iterator[None]:
    """lmms-eval lets Pillow fill in what is missing of a picture that is cut short, which nobody would notice; not here."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _names(requests: Sequence[Any]) -> list[str]:
    """Doc ids; with a number where a doc is asked several times."""
    seen: collections.Counter[tuple[str, Any]] = collections.Counter()
    names = []
    for request in requests:
        doc_id, task = request.args[3], request.args[4]
        seen[task, doc_id] += 1
        again = seen[task, doc_id] - 1
        names.append(f"{doc_id}#{again}" if again else str(doc_id))
    return names


def _asked(request: Any) -> str:
    return fingerprint([request.args[0], _plain(request.args[1])])


def _plain(generation: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(name): value if isinstance(value, int | float | list) else str(value) for name, value in generation.items()
    }


def run_settings(model: Any) -> dict[str, Any]:
    """How and where the model runs, and versions of all that shapes a result, lmms-eval included."""
    seen = {**versions(), "lmms_eval": version("lmms_eval")}
    return {"dtype": str(model.dtype), "device": model.device.type, "versions": seen}
