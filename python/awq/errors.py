"""Exceptions: every one is an AwqError and also the built-in type a Python programmer would catch.

The message is one line that names the file, what was expected and what was found; `code` is stable.
"""
from __future__ import annotations


class AwqError(Exception):
    """Base of everything awq raises on purpose. `code` is one of the keys of BY_CODE."""

    code = "internal"


class BadArgumentError(AwqError, ValueError):
    """The caller asked for something impossible, such as a group size that does not divide a width."""

    code = "bad_argument"


class BadFileError(AwqError, ValueError):
    """A file's content is not what its format demands."""

    code = "bad_file"


class UnsupportedError(AwqError, NotImplementedError, ValueError):
    """Valid, but not supported here."""

    code = "unsupported"


class NotFoundError(AwqError, FileNotFoundError):
    """A file, a tensor or a key is missing."""

    code = "not_found"


class ExistsError(AwqError, FileExistsError):
    """An output would overwrite something."""

    code = "exists"


class IoError(AwqError, OSError):
    """The operating system refused a read or write."""

    code = "io"


class NoSpaceError(AwqError, OSError):
    """Too little disk."""

    code = "no_space"


class NoMemoryError(AwqError, MemoryError):
    """Too little memory."""

    code = "no_memory"


class CancelledError(AwqError):
    """The work was stopped."""

    code = "cancelled"


class InternalError(AwqError, RuntimeError):
    """A bug in awq."""

    code = "internal"


BY_CODE = {
    kind.code: kind
    for kind in (BadArgumentError, BadFileError, UnsupportedError, NotFoundError, ExistsError, IoError, NoSpaceError,
                 NoMemoryError, CancelledError, InternalError)
}
