"""Progress of a long job: a function of the caller's, or a bar."""
from __future__ import annotations

import contextlib
import sys
from typing import Any, Callable, Dict, Iterator, Optional, Union

Progress = Union[bool, Callable[[Dict[str, Any]], None], None]


class _TqdmBar:
    def __init__(self, tqdm: Any) -> None:
        self._tqdm, self._bar, self._stage = tqdm, None, None

    def __call__(self, event: Dict[str, Any]) -> None:
        if event["stage"] != self._stage:
            self.close()
            self._stage = event["stage"]
            self._bar = self._tqdm(total=event["total"] or None, desc=event["stage"], unit=" " + event["unit"])
        self._bar.n = event["done"]
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _PlainLine:
    def __call__(self, event: Dict[str, Any]) -> None:
        total = f"/{event['total']:.0f}" if event["total"] else ""
        sys.stderr.write(f"\r\x1b[K{event['stage']} {event['done']:.0f}{total} {event['unit']}")
        sys.stderr.flush()

    def close(self) -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


@contextlib.contextmanager
def reporter(progress: Progress) -> Iterator[Optional[Callable[[Dict[str, Any]], None]]]:
    """The function to report to. True: a bar, tqdm's where it is installed. None: a bar on a terminal. False: nothing."""
    if callable(progress):
        yield progress
        return
    if progress is False or (progress is None and not sys.stderr.isatty()):
        yield None
        return
    try:
        from tqdm.auto import tqdm

        bar: Any = _TqdmBar(tqdm)
    except ImportError:
        bar = _PlainLine()
    try:
        yield bar
    finally:
        bar.close()
