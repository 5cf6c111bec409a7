"""Tiny checkpoints for the package's tests, made by the end-to-end tests' generator."""
import importlib.util
import pathlib
import sys

_spec = importlib.util.spec_from_file_location("e2e_tiny", pathlib.Path(__file__).resolve().parent.parent / "e2e" / "tiny.py")
_argv, sys.argv = sys.argv, sys.argv[:1]
e2e = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(e2e)
sys.argv = _argv

TEXTS = ["The tide went out before dawn, and the boats lay on their sides in the mud.", "A boy walked between them with a bucket."]


def write_model(folder, **changes):
    """A llama of `num_hidden_layers` blocks, 64 wide, with a byte-level tokenizer."""
    return str(e2e.write_model(folder, e2e.llama_config(**changes)))


digests = e2e.digests
long_text = e2e.long_text
