"""How near the text encoder of a model puts words that no caption said to the nouns that they mean.

    python benchmarks/paraphrases.py [--model stickers]

Prints, for each noun that StickerBench paraphrases, which of the nouns that were trained on is the nearest to the paraphrase,
by the cosine of their states in one sentence, and how far the right one lies down the list: what a base could make of a word
that it has never been told.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import tables
import torch
import torch.nn.functional as F
from torch import Tensor

from realcustom import RealCustomPipeline
from realcustom.data.stickers.captions import with_article
from realcustom.data.stickers.drawings import vocabulary
from realcustom.evaluation.benchmark import PARAPHRASED_NOUNS
from realcustom.prompts import find_word


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stickers")
    pipeline = RealCustomPipeline.from_pretrained(parser.parse_args(arguments).model)
    nouns = sorted({drawing.noun for drawing in vocabulary() if not drawing.held_out})
    side = (pipeline.side, pipeline.side)

    def state(word: str) -> Tensor:
        prompt = f"{with_article(word)} on the beach"
        tokens = find_word(prompt, word, pipeline.tokenizer).tokens
        return pipeline.text_states([prompt], side, shortest=True).states[0, list(tokens)].mean(dim=0)

    known = torch.stack([state(noun) for noun in nouns])
    ranks = []
    tables.begin("word", "means", "nearest", "rank of the right one")
    for word, noun in PARAPHRASED_NOUNS.items():
        order = F.cosine_similarity(known, state(word)[None]).argsort(descending=True).tolist()
        ranks.append(order.index(nouns.index(noun)) + 1)
        tables.add(word, noun, nouns[order[0]], str(ranks[-1]))
    print(f"\nof {len(nouns)} nouns the right one is the nearest for {ranks.count(1)} of {len(ranks)} words")


if __name__ == "__main__":
    main()
