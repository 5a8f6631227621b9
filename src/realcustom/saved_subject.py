"""A subject that is saved once and used everywhere in the place of its picture: one safetensors file."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from realcustom.errors import InputError
from realcustom.files import write_whole
from realcustom.pictures import decode_picture
from realcustom.portrait import Portrait
from realcustom.vision import ImageFeatures

SUFFIX = ".subject.safetensors"
_FORMAT = "realcustom.subject.1"


@dataclass(frozen=True)
class SavedSubject:
    """What an encoder saw of a picture of a subject."""

    features: ImageFeatures
    """Of one picture, float32."""
    portrait: Portrait
    """What was known of the picture."""
    preview: Image.Image
    """What the encoder saw."""
    word: str
    """The word that stands for it, as a suggestion."""
    encoder: str
    """Which encoder it was, see `SubjectEncoder.name`."""
    note: str = ""
    """Whose it is, who consented to what, under which licence."""

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write it; the file appears under its name only when it is whole.

        Raises:
            InputError: the name does not end in .subject.safetensors, exists and may not be overwritten, or cannot be written.
        """
        path = Path(path)
        check_name(path)
        stream = io.BytesIO()
        self.preview.save(stream, "PNG")
        tensors = {
            "deep": self.features.deep,
            "preview": torch.from_numpy(np.frombuffer(stream.getvalue(), np.uint8).copy()),
        }
        if self.features.local is not None:
            tensors["local"] = self.features.local
        tensors |= {f"shallow.{number}": layer for number, layer in enumerate(self.features.shallow)}
        told = {"portrait": asdict(self.portrait), "word": self.word, "encoder": self.encoder, "note": self.note}
        metadata = {"format": _FORMAT, "subject": json.dumps(told)}
        whole = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
        write_whole(whole, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> SavedSubject:
        """Return the subject of a file.

        Raises:
            InputError: there is no such file, or it holds something else.
        """
        try:
            with safe_open(str(path), "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise InputError(f"{path} holds no saved subject, but other tensors")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read as a saved subject: {error}") from error
        try:
            told = json.loads(metadata["subject"])
            if not isinstance(told, dict):
                raise ValueError("what it says of the subject has no names")
            portrait = TypeAdapter(Portrait).validate_python(told.pop("portrait"))
            if not portrait.sound:
                raise ValueError("its portrait is none that a picture can have")
            preview = decode_picture(io.BytesIO(tensors.pop("preview").numpy().tobytes()), Path(path))
            texts = {name: str(told[name]) for name in ("word", "encoder", "note")}
            return cls(_features(tensors), portrait, preview.convert("RGB"), **texts)
        except (ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
            raise InputError(f"{path} is no whole saved subject: {error}") from error


def check_name(path: Path) -> None:
    """Check that a saved subject's file is named as one.

    Raises:
        InputError: it is not.
    """
    if not path.name.endswith(SUFFIX) or path.name == SUFFIX:
        raise InputError(f"a saved subject's name must end in {SUFFIX}, but is {path}")


def _features(tensors: dict[str, Tensor]) -> ImageFeatures:
    shallow = sorted((name for name in tensors if name.startswith("shallow.")), key=lambda name: int(name[8:]))
    features = ImageFeatures(tensors["deep"], tensors.get("local"), tuple(tensors[name] for name in shallow))
    features = ImageFeatures(
        features.deep.float(),
        None if features.local is None else features.local.float(),
        tuple(layer.float() for layer in features.shallow),
    )
    for tensor in (features.deep, features.local, *features.shallow):
        if tensor is not None and (tensor.ndim != 3 or len(tensor) != 1 or not bool(torch.isfinite(tensor).all())):
            raise ValueError("its features are not those of one picture")
    return features
