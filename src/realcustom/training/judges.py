"""Learning the judges: region, place, noun, colour and identity of rendered scenes, all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from realcustom.data.examples import Batch, ExampleSource, collate
from realcustom.data.stickers.backgrounds import PLACES
from realcustom.data.stickers.drawings import identity, vocabulary
from realcustom.data.stickers.scenes import HUES, WORN
from realcustom.errors import InputError
from realcustom.evaluation.judges import Judges, bare_region, subject_crops
from realcustom.loading import construct
from realcustom.masks import overlap
from realcustom.training.options import Fixed, Recipe

_UNKNOWN = -100
"""Where cross-entropy looks away."""


class JudgesRecipe(Recipe):
    """All that a run of `realcustom train judges` needs; its data must show bare drawings as references."""

    judges: Fixed[dict[str, Any]] = {}
    """Arguments of `Judges` beside its labels."""
    identity_scale: PositiveFloat = 16.0
    """Steepness of the softmax over cosines between an embedding and every identity."""
    softest: PositiveInt = 1
    """Scenes are shown as soft as pictures of a size that is a random whole number of times smaller, at most so many: what
    judges see later is not drawn as sharply as what they learn from."""
    validation_examples: PositiveInt = 256


class LearningJudges(nn.Module):
    """The judges with one direction for each identity that is trained on, which they need only while they learn."""

    def __init__(self, judges: Judges, identities: int) -> None:
        super().__init__()
        self.judges = judges
        self.directions = nn.Parameter(torch.randn(identities, judges.config["identity_dim"]))

    def forward(self, pixels: Tensor, drawings: Tensor, regions: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the segmenter's logits, those of the labels, and the cosines of scenes and bare drawings to all identities.

        Those of the noun are of the scenes' things, then of what is beside them where something is.
        """
        (thing, beside), count, there = regions.unbind(1), len(pixels), shown_beside(regions)
        crops = [subject_crops(pixels, thing), subject_crops(drawings, bare_region(drawings))]
        if there.any():
            crops.append(subject_crops(pixels[there], beside[there]))
        seen = self.judges.describe_crops(torch.cat(crops))
        cosines = seen["identity"][: 2 * count] @ F.normalize(self.directions, dim=1).T
        nouns = torch.cat([seen["noun"][:count], seen["noun"][2 * count :]])
        logits = {**self.judges.survey(pixels), "noun": nouns, "colour": seen["colour"][:count]}
        return self.judges.segment(pixels), logits, cosines


REGIONS = ("region", "region beside")
"""What the segmenter finds, in the log's words."""


def true_regions(batch: Batch) -> Tensor:
    """Return how much of each pixel is covered by the thing, and by what is beside it if anything is, `[b, 2, h, w]` in [0, 1].

    Raises:
        InputError: the source does not know where its things are.
    """
    if batch.regions is None or batch.foregrounds is None:
        raise InputError("judges learn from a source that knows where its things are; take data.source=stickers")
    there = torch.tensor(["beside" in facts for facts in batch.facts], device=batch.pixels.device)
    beside = (batch.foregrounds - batch.regions).clamp(min=0) * there[:, None, None]
    return torch.stack([batch.regions, beside], dim=1)


def shown_beside(regions: Tensor) -> Tensor:
    """Return of `regions [b, 2, h, w]` whether what is beside the thing covers most of any pixel, `[b]` bool."""
    return (regions[:, 1] >= 0.5).flatten(1).any(dim=1)


def softened(pixels: Tensor, softest: int, generator: torch.Generator) -> Tensor:
    """Return pictures `[b, 3, h, w]`, each made smaller by a random factor of 1 to `softest`, and as large as before again."""
    factors = torch.randint(1, softest + 1, (len(pixels),), generator=generator).tolist()
    height, width = pixels.shape[-2:]
    soft = []
    for row, factor in enumerate(factors):
        one = pixels[row, None]
        if factor > 1:
            one = F.interpolate(one, (height // factor, width // factor), mode="bilinear", antialias=True)
            one = F.interpolate(one, (height, width), mode="bilinear")
        soft.append(one)
    return torch.cat(soft)


class JudgesObjective:
    """Cross-entropy of every judge."""

    def __init__(self, recipe: JudgesRecipe, validation: ExampleSource) -> None:
        self.recipe = recipe
        if recipe.data.reference != "drawing":
            raise InputError(
                f"judges learn from bare drawings: data.reference must be drawing, not {recipe.data.reference}"
            )
        if recipe.softest > recipe.data.resolution:
            raise InputError(f"softest is {recipe.softest}, but pictures have {recipe.data.resolution} pixels a side")
        places = [place.name for place in PLACES]
        nouns = sorted({drawing.noun for drawing in vocabulary() if not drawing.held_out})
        labels = {"places": places, "nouns": nouns, "colours": list(HUES)}
        if recipe.data.scenes.worn_share:
            labels["worn"] = sorted(WORN)
        if recipe.data.scenes.beside_share:
            labels["beside"] = sorted(
                {drawing.noun for drawing in vocabulary() if drawing.common and not drawing.held_out}
            )
        judges = construct(Judges, {**labels, **recipe.judges}, "judges")
        known = {drawing.identity for drawing in vocabulary() if drawing.split == "train"}
        self.identities = {name: number for number, name in enumerate(sorted(known))}
        self.model = LearningJudges(judges, len(self.identities))
        self.held_out = collate([validation[number] for number in range(recipe.validation_examples)])

    def prepare(self, device: torch.device) -> None:
        """Move what is held out to the device; nothing is frozen."""
        self.held_out = self.held_out.to(device)

    def parameter_groups(self) -> list[dict]:
        """Return one group."""
        return [{"params": list(self.model.parameters())}]

    def loss(self, model: LearningJudges, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the sum of the judges' cross-entropies."""
        device, regions = batch.pixels.device, true_regions(batch)
        pixels = softened(batch.pixels, self.recipe.softest, generator)
        segmented, logits, cosines = model(pixels, batch.references, regions)
        wanted = {name: self._wanted(batch, name) for name in logits}
        others = self._wanted(batch, "noun", of="beside")[shown_beside(regions)]
        wanted["noun"] = torch.cat([wanted["noun"], others])
        names = [self.identities.get(identity(facts["noun"], facts["style"]), _UNKNOWN) for facts in batch.facts]
        plain = [number if facts["hue"] == "0" else _UNKNOWN for number, facts in zip(names, batch.facts, strict=True)]
        logits["identity"] = self.recipe.identity_scale * cosines
        wanted["identity"] = torch.tensor(plain + names, device=device)
        parts = {
            name: F.binary_cross_entropy_with_logits(segmented[:, number].float(), regions[:, number])
            for number, name in enumerate(REGIONS[: segmented.shape[1]])
        } | {
            name: F.cross_entropy(logit.float(), wanted[name], ignore_index=_UNKNOWN)
            for name, logit in logits.items()
            if (wanted[name] != _UNKNOWN).any()
        }
        return torch.stack(list(parts.values())).sum(), {name: float(part.detach()) for name, part in parts.items()}

    def _wanted(self, batch: Batch, name: str, of: str = "") -> Tensor:
        """Return the numbers of labels, of the kind `name`, that say what is known of each picture under the name `of`."""
        labels = self.model.judges.labels[name]
        said = [known.get(of or name, "") for known in batch.facts]
        numbers = [labels.index(one) if one in labels else _UNKNOWN for one in said]
        return torch.tensor(numbers, device=batch.pixels.device)

    def validate(self, model: LearningJudges) -> tuple[dict[str, float], Image.Image | None]:
        """Return the segmenter's mean overlap, the accuracies of the labels, and how often a thing is found among them all.

        Held-out drawings, and of the nouns those that are known; of what is worn and beside also where something is.
        """
        batch = self.held_out
        readings = [model.judges.read(pixels) for pixels in batch.pixels.split(64)]
        figures = dict[str, float]()
        if batch.regions is not None:
            found = torch.cat([one.region for one in readings])
            figures["overlap"] = float(overlap((found >= 0.5).float(), batch.regions).mean())
        for name in model.judges.labels:
            wanted = self._wanted(batch, name)
            right = torch.cat([one.logits[name] for one in readings]).argmax(dim=1) == wanted
            known = {name: wanted != _UNKNOWN}
            if self.model.judges.labels[name][0] == "":
                known[f"{name} (there)"] = wanted > 0
            figures |= {told: float(right[rows].float().mean()) for told, rows in known.items() if rows.any()}
        drawings = model.judges.describe(batch.references, bare_region(batch.references))["identity"]
        closest = (torch.cat([one.identity for one in readings]) @ drawings.T).argmax(dim=1)
        shown = [identity(facts["noun"], facts["style"]) for facts in batch.facts]
        found_again = [shown[int(place)] == name for place, name in zip(closest, shown, strict=True)]
        plain = [right for right, facts in zip(found_again, batch.facts, strict=True) if facts["hue"] == "0"]
        if plain:
            figures["identity"] = float(np.mean(plain))
        return figures, None

    def export(self, model: LearningJudges, folder: Path) -> None:
        """Write the judges."""
        model.judges.save_pretrained(folder)
