"""Work lists of photographs: which subjects are shown under which sentences, and the real pictures to compare with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from realcustom.errors import InputError
from realcustom.evaluation import dreambench
from realcustom.options import Options, parse_options

LIST = "benchmark.jsonl"
"""Name of the file that makes a folder a benchmark of its own."""

WHOLE = len(dreambench.CLASSES) * dreambench.SENTENCES * dreambench.SEEDS
"""How many pictures DreamBench asks for by its published protocol, and as many its pairs."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class RealSubject:
    """One subject and all real pictures of it."""

    name: str
    word: str
    """What it is called in sentences: its class."""
    pictures: tuple[Path, ...]
    """Real pictures, in the order of their names."""
    reference: Path
    """The one that methods are shown."""


@dataclass(frozen=True)
class Case:
    """One picture to be made."""

    subjects: tuple[RealSubject, ...]
    """One, or two."""
    prompt: str
    family: str
    """What kind of sentence it is: "scene", "worn" or "property"."""
    prompt_number: int
    seed: int

    @property
    def group(self) -> str:
        """The subject, or the subjects, over which intervals are drawn."""
        return "+".join(subject.name for subject in self.subjects)

    @property
    def path(self) -> Path:
        """Where its picture lies in a folder of pictures: `SUBJECT/PROMPT-SEED.png`, both numbers from 0."""
        return Path(self.group) / f"{self.prompt_number:02d}-{self.seed}.png"

    @property
    def words(self) -> list[tuple[str, int]]:
        """For each subject its word, and which one it is where the sentence says it more than once."""
        said = [subject.word for subject in self.subjects]
        return [(word, said[: number + 1].count(word)) for number, word in enumerate(said)]


class ListedSubject(Options):
    """One line of a benchmark's `benchmark.jsonl`."""

    subject: str
    word: str
    pictures: list[str]
    """Paths from the folder; the first one is the reference."""
    prompts: list[str]
    """Sentences that say the word."""


def dreambench_cases(
    folder: Path,
    *,
    pairs: bool = False,
    subjects: Sequence[str] | None = None,
    prompts: int = dreambench.SENTENCES,
    seeds: int = dreambench.SEEDS,
) -> list[Case]:
    """Return DreamBench's work list by its published protocol, or a part of it: each subject, or pair, under each sentence.

    Args:
        folder: with a folder of pictures for each of the 30 subjects.
        pairs: of two subjects instead of single ones.
        subjects: names of those that are to take part, "dog+can" for a pair; all if None.
        prompts: how many sentences, from the first on.
        seeds: how many pictures of each.

    Raises:
        InputError: there is no such subject, or the folder holds no pictures of it.
    """
    known = ["+".join(pair) for pair in dreambench.PAIRS] if pairs else list(dreambench.CLASSES)
    unknown = [name for name in subjects or () if name not in known]
    if unknown:
        raise InputError(f"DreamBench has no {', '.join(unknown)}; it has {', '.join(known)}")
    if not 1 <= prompts <= dreambench.SENTENCES:
        raise InputError(f"DreamBench has 1 to {dreambench.SENTENCES} sentences about each subject, not {prompts}")
    cases = []
    for name in dict.fromkeys(subjects or known):
        shown = tuple(_dreambench_subject(folder, one) for one in name.split("+"))
        said = dreambench.prompts(
            [one.word for one in shown], live=all(one in dreambench.LIVE for one in name.split("+"))
        )
        cases += [
            Case(shown, prompt, family, number, seed)
            for number, (family, prompt) in enumerate(said[:prompts])
            for seed in range(seeds)
        ]
    return cases


def listed_cases(folder: Path, seeds: int = dreambench.SEEDS) -> list[Case]:
    """Return the work list of a folder of one's own, see `ListedSubject`.

    Raises:
        InputError: its list cannot be read, or a picture that it names is missing.
    """
    path, cases = folder / LIST, []
    if not path.is_file():
        raise InputError(f"{folder} is no benchmark: it has no {LIST}, with a line for each subject")
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"line {number} of {path}"
        try:
            told = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where} is no JSON: {error}") from error
        entry = parse_options(ListedSubject, told, where)
        pictures = tuple(folder / name for name in entry.pictures)
        missing = [str(one) for one in pictures if not one.is_file()]
        if missing or not pictures:
            raise InputError(f"{where} names {', '.join(missing) or 'no pictures'}; give at least one that is there")
        if "/" in entry.subject or "+" in entry.subject or not entry.subject.strip("."):
            raise InputError(f"{where}: {entry.subject!r} cannot name a folder; take letters, numbers, - and _")
        subject = RealSubject(entry.subject, entry.word, pictures, pictures[0])
        cases += [
            Case((subject,), prompt, "own", place, seed)
            for place, prompt in enumerate(entry.prompts)
            for seed in range(seeds)
        ]
    paths = [case.path for case in cases]
    if len(set(paths)) < len(paths):
        raise InputError(f"{path} names a subject twice; put all its pictures and prompts into one line")
    if not cases:
        raise InputError(f"{path} lists nothing to be made")
    return cases


def digest(cases: Sequence[Case]) -> str:
    """Return a hash of all that is asked for and shown, so that two reports are compared only if they should be."""
    found = hashlib.sha256()
    for case in cases:
        found.update(json.dumps([case.group, case.words, case.prompt, case.seed]).encode())
    for subject in {subject.name: subject for case in cases for subject in case.subjects}.values():
        found.update(json.dumps([subject.name, subject.word, subject.pictures.index(subject.reference)]).encode())
        for path in subject.pictures:
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


def _dreambench_subject(folder: Path, name: str) -> RealSubject:
    pictures = sorted(path for path in (folder / name).glob("*") if path.suffix.lower() in SUFFIXES)
    if not pictures:
        raise InputError(
            f"{folder} holds no pictures of {name}; give the dataset folder of github.com/google/dreambooth, with a folder for "
            "each subject"
        )
    number = dreambench.REFERENCES[name]
    reference = next((path for path in pictures if path.stem == f"{number:02d}"), None)
    if reference is None:
        raise InputError(
            f"{folder / name} lacks the picture {number:02d}, the reference of {name} in the single-reference list"
        )
    return RealSubject(name, dreambench.CLASSES[name], tuple(pictures), reference)
