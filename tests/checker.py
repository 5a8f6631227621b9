"""The run-time type checker of the tests: as PEP 484 has it, an int will do where a float is asked for."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
