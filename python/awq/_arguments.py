"""Arguments of other people's scripts: what has no meaning here is accepted and said once, what nobody knows is refused."""
from __future__ import annotations

import contextlib
import difflib
import warnings
from typing import Any, Dict, Iterable, Iterator

from .errors import AwqError

_said: set = set()


def say_once(key: str, message: str) -> None:
    """A UserWarning, the first time `key` comes up in this process."""
    if key not in _said:
        _said.add(key)
        warnings.warn(message, UserWarning, stacklevel=4)


def refuse_unknown(function: str, unknown: Iterable[str], known: Iterable[str]) -> None:
    """TypeError for the first of `unknown`, naming the nearest of `known`."""
    known = sorted(known)
    for name in unknown:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise TypeError(f"{function}() got an unexpected keyword argument '{name}'{hint}")


def without_effect(function: str, given: Dict[str, Any], meaningless: Dict[str, str]) -> None:
    """Notes each given argument that has no effect here. `meaningless`: name -> why, in a few words."""
    for name in given:
        if name in meaningless:
            say_once(f"{function}.{name}", f"{function}: '{name}' has no effect: {meaningless[name]}")


@contextlib.contextmanager
def in_terms_of(names: Dict[str, str]) -> Iterator[None]:
    """Errors name options of the command line; the caller knows other names for them."""
    try:
        yield
    except AwqError as error:
        text = str(error)
        for option, name in names.items():
            text = text.replace(option, name)
        raise type(error)(text) from None
