"""What the language model should know midway: at a thing's name what the picture holds of it, at an option whether it is right.

Questions alone teach this very slowly; the helper heads here are dropped after training, as the tower's are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from recipes.demo.lm_data import Cache
from recipes.demo.lm_forward import Blocks
from recipes.demo.shapes import LM_WIDTH
from recipes.demo.targets import CLASSES, IGNORE
from trimkit.demo.overall import MOST_DISCS
from trimkit.demo.questions import LETTERS
from trimkit.demo.world import COLOURS, NAMES, PLURALS

# The layers after which patches know their owner's place as waves, names the mean of those over all such things, names
# their facts, and options whether they are right.
TAPS = (0, 1, 2, 3)
# Wave vectors (half turns across the picture): things' waves add up in step only if there is one thing, so that the mean's
# length tells how many there are, however exactly attention is calibrated.
WAVES = torch.tensor(
    [(x, y) for x in (0.0, 0.5, 1.0, 1.5) for y in (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5) if x or y > 0]
)
LIMIT = 1200  # tokens a loss looks at


@dataclass(frozen=True)
class Words:
    """Token tables [vocab]: the class a token names (0 none), its disc colour (0 none), its option letter (-1 none), whether it
    says "discs"."""

    named: Tensor
    hue: Tensor
    letter: Tensor
    discs: Tensor
    stop: int  # the full stop that follows an option's letter


def words_of(tokenizer: PreTrainedTokenizerFast) -> Words:
    vocab = tokenizer.get_vocab()
    named, hue = torch.zeros(len(vocab), dtype=torch.long), torch.zeros(len(vocab), dtype=torch.long)
    letter, discs = torch.full((len(vocab),), -1), torch.zeros(len(vocab), dtype=torch.long)

    def fill(table: Tensor, text: str, value: int) -> None:
        for form in (f"Ġ{text}", text):  # the tokenizer writes a leading space so
            if form in vocab:
                table[vocab[form]] = value

    for cls, name in enumerate(CLASSES):
        if cls > len(NAMES):
            fill(named, name, cls)
    for cls, name in enumerate(NAMES, start=1):
        fill(named, PLURALS[name], cls)
        fill(named, name, cls)
    for number, colour in enumerate(COLOURS, start=1):
        fill(hue, colour, number)
    for number, text in enumerate(LETTERS):
        fill(letter, text, number)
    fill(discs, "discs", 1)
    return Words(named, hue, letter, discs, vocab["."])


@dataclass(frozen=True)
class Facts:
    """Of each scene, by class: how many [b, c], disc colour (0 none, IGNORE unless there is one such thing), centre [b, c, 2]
    and mean waves [b, c, 2 * waves]; by disc colour: the class of the one thing on it [b, 9], else IGNORE; all discs [b]."""

    count: Tensor
    colour: Tensor
    place: Tensor
    waves: Tensor
    on_disc: Tensor
    discs: Tensor

    def repeat(self, times: int) -> Facts:
        each = (self.count, self.colour, self.place, self.waves, self.on_disc, self.discs)
        return Facts(*(t.repeat_interleave(times, dim=0) for t in each))


def waves_at(place: Tensor) -> Tensor:
    """[..., 2] in -1 to 1 to [..., 2 * waves]."""
    phase = math.pi * place @ WAVES.T.to(place.device)
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def facts_of(cache: Cache, scenes: npt.NDArray[np.int64]) -> Facts:
    row, at = (cache.centre[scenes] & (cache.label[scenes] > 0)).nonzero().unbind(1)
    label = cache.label[scenes].long()[row, at]
    hue, place = cache.colour[scenes].long()[row, at], cache.place[scenes].float()[row, at]
    count = torch.zeros(len(scenes), len(CLASSES), dtype=torch.long)
    count.index_put_((row, label), torch.ones_like(label), accumulate=True)
    colour = torch.full_like(count, IGNORE)
    colour[row, label] = hue
    where = torch.zeros(*count.shape, 2)
    where[row, label] = place
    waves = torch.zeros(*count.shape, 2 * len(WAVES))
    waves.index_put_((row, label), waves_at(place), accumulate=True)
    waves = waves / count.clamp(min=1)[..., None]
    discs = torch.zeros(len(scenes), len(COLOURS) + 1, dtype=torch.long)
    discs.index_put_((row, hue), torch.ones_like(label), accumulate=True)
    on_disc = torch.full_like(discs, IGNORE)
    on_disc[row, hue] = label
    on_disc[:, 0] = IGNORE
    alone = colour.masked_fill(count != 1, IGNORE), where, waves, on_disc.masked_fill(discs != 1, IGNORE)
    return Facts(count, *alone, discs[:, 1:].sum(1))


class Probes(nn.Module):
    """What a name's or an option's state has to tell linearly."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_waves = nn.Linear(LM_WIDTH, 2 * len(WAVES))
        self.waves = nn.Linear(LM_WIDTH, 2 * len(WAVES))
        self.count = nn.Linear(LM_WIDTH, 5)
        self.colour = nn.Linear(LM_WIDTH, len(COLOURS) + 1)
        self.place = nn.Linear(LM_WIDTH, 2)
        self.thing = nn.Linear(LM_WIDTH, len(CLASSES))
        self.right = nn.Linear(LM_WIDTH, 1)
        self.discs = nn.Linear(LM_WIDTH, MOST_DISCS + 1)
        for probe in (self.patch_waves, self.waves):  # residual states are large: start at nothing
            nn.init.zeros_(probe.weight)


def options(words: Words, group: Blocks) -> tuple[Tensor, Tensor]:
    """Which tokens are options, and which of them the right one, [b, q, l] each."""
    letter = words.letter[group.ids]
    option = torch.zeros_like(letter, dtype=torch.bool)
    option[..., 2:] = (letter[..., :-2] >= 0) & (group.ids[..., 1:-1] == words.stop)
    answer = letter.gather(2, (group.read + 1)[..., None])
    return option, option & (F.pad(letter, (2, 0), value=-1)[..., :-2] == answer)


def all_discs(words: Words, group: Blocks) -> Tensor:
    """Tokens "discs" that no colour goes before, [b, q, l]."""
    coloured = F.pad(words.hue[group.ids][..., :-1], (1, 0)) > 0
    past = torch.arange(group.ids.shape[2]) <= group.read[..., None]
    return (words.discs[group.ids] > 0) & ~coloured & past


def looked_at(words: Words, group: Blocks) -> Tensor:
    """Where the answering token should look, [b, q, l]: the right option if there are options, else names and colours; where
    one of them is the answer, that one."""
    option, right = options(words, group)
    past = torch.arange(group.ids.shape[2]) <= group.read[..., None]
    named, hue = words.named[group.ids] * past, words.hue[group.ids] * past
    answer = (group.read + 1)[..., None]
    same = (named > 0) & (named == words.named[group.ids].gather(2, answer))
    same |= (hue > 0) & (hue == words.hue[group.ids].gather(2, answer))
    told = torch.where(same.any(-1, keepdim=True), same, (named > 0) | (hue > 0) | all_discs(words, group))
    return torch.where(option.any(-1, keepdim=True), right, told)


def wave_loss(probes: Probes, patches: Tensor, chosen: Tensor, place: Tensor, limit: int = LIMIT) -> Tensor:
    """The chosen patches' states, of [b, p, width] after the first tapped layer, should tell their owner's place as waves."""
    told = probes.patch_waves(patches[chosen][:limit]).float()
    return F.mse_loss(told, waves_at(place[chosen][:limit]))


def fact_losses(
    probes: Probes, words: Words, facts: Facts, groups: list[Blocks], tapped: list[list[Tensor]], limit: int = LIMIT
) -> dict[str, Tensor]:
    """`tapped`: states of prefix and groups [b, q, l, width] after each of TAPS."""
    found: dict[str, list[Tensor]] = {
        name: [] for name in ("waves", "count", "colour", "place", "thing", "right", "discs")
    }
    for i, group in enumerate(groups, start=1):
        gathered, named_by, checked_by = (states[i] for states in tapped[1:])
        past = torch.arange(group.ids.shape[2]) <= group.read[..., None]
        cls = words.named[group.ids] * past
        b, q, at = (cls > 0).nonzero()[:limit].unbind(1)
        if len(b):
            h, c = named_by[b, q, at], cls[b, q, at]
            count, hue = facts.count[b, c].clamp(max=4), facts.colour[b, c]
            # what is there more than once is rare and hardest
            weight = torch.tensor([1.0, 1.0, 3.0, 3.0, 3.0])
            found["count"].append(F.cross_entropy(probes.count(h).float(), count, weight=weight))
            there = count > 0
            if bool(there.any()):
                told = probes.waves(gathered[b, q, at][there]).float()
                off = (told - facts.waves[b, c][there]).square().mean(-1)
                found["waves"].append((off * weight[count[there]]).sum() / weight[count[there]].sum())
            if bool((hue >= 0).any()):
                found["colour"].append(F.cross_entropy(probes.colour(h).float(), hue, ignore_index=IGNORE))
                off = probes.place(h).float() - facts.place[b, c]
                found["place"].append(off.abs()[hue >= 0].mean())
        b, q, at = all_discs(words, group).nonzero()[:limit].unbind(1)
        if len(b):
            many = facts.discs[b].clamp(max=MOST_DISCS)
            found["discs"].append(F.cross_entropy(probes.discs(named_by[b, q, at]).float(), many))
        option, right = options(words, group)
        b, q, at = ((words.hue[group.ids] > 0) & past & ~option).nonzero()[:limit].unbind(1)
        thing = facts.on_disc[b, words.hue[group.ids[b, q, at]]]
        if bool((thing >= 0).any()):
            told = probes.thing(named_by[b, q, at]).float()
            found["thing"].append(F.cross_entropy(told, thing, ignore_index=IGNORE))
        b, q, at = option.nonzero()[:limit].unbind(1)
        if len(b):
            told = probes.right(checked_by[b, q, at])[:, 0].float()
            found["right"].append(F.binary_cross_entropy_with_logits(told, right[b, q, at].float()))
    return {name: torch.stack(each).mean() for name, each in found.items() if each}
