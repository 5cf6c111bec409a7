#!/usr/bin/env python3
"""Compares the public methods of AutoAWQ's classes with ours, argument by argument, from AutoAWQ's source alone.

    pip download --no-deps --no-binary :all: autoawq==0.2.9 && tar xzf autoawq-0.2.9.tar.gz
    python tests/python/compare_api.py autoawq-0.2.9 [--markdown docs/autoawq-api.md]

Nothing of AutoAWQ is imported: signatures are read from the syntax tree. Exits with 1 when an argument of AutoAWQ is missing
here, has another position, or has no line in the table of what became of it.
"""
import ast
import inspect
import pathlib
import sys

# file, class, method -> our method, and arguments that the entry point passes on by itself
METHODS = [
    ("awq/models/auto.py", "AutoAWQForCausalLM", "from_pretrained"),
    ("awq/models/auto.py", "AutoAWQForCausalLM", "from_quantized"),
    ("awq/models/base.py", "BaseAWQForCausalLM", "quantize"),
    ("awq/models/base.py", "BaseAWQForCausalLM", "pack"),
    ("awq/models/base.py", "BaseAWQForCausalLM", "save_quantized"),
    ("awq/models/base.py", "BaseAWQForCausalLM", "generate"),
    ("awq/models/base.py", "BaseAWQForCausalLM", "forward"),
    ("awq/models/base.py", "BaseAWQForCausalLM", "to"),
    ("awq/models/base.py", "BaseAWQForCausalLM", "fuse_layers"),
]

DEVICE_MAP = ("\"cuda\", \"cuda:0\", 0 and maps of all to one of these: the GPU; without one, and for \"auto\" and \"balanced\", the CPU")
HONOURED = {
    ("from_pretrained", "model_path"): "a directory, a .gguf file, or org/name in the Hugging Face cache",
    ("from_pretrained", "device_map"): DEVICE_MAP,
    ("from_quantized", "device_map"): DEVICE_MAP,
    ("from_quantized", "quant_path"): "a directory, a .gguf file, or org/name in the Hugging Face cache",
    ("from_quantized", "quant_filename"): "names a .gguf inside the directory",
    ("quantize", "tokenizer"): "transformers' (its encode is called), awq.AutoTokenizer, or None for the checkpoint's own",
    ("quantize", "quant_config"): "zero_point, q_group_size, w_bit (4), version, modules_to_not_convert; unknown keys are a TypeError",
    ("quantize", "calib_data"): "strings, token ids, dicts, a file; \"pileval\" stands for the built-in text, nothing is downloaded",
    ("quantize", "split"): "chooses in a dict of data sets",
    ("quantize", "text_column"): "the key of the text in dicts",
    ("quantize", "export_compatible"): "plain 16-bit tensors with the rounded weights, until pack()",
    ("quantize", "max_calib_samples"): "sequences, spread evenly over the text",
    ("quantize", "max_calib_seq_len"): "tokens per sequence; longer samples are cut, never discarded",
    ("save_quantized", "save_dir"): "written whole or not at all; a finished output of awq is replaced, another directory refused",
    ("save_quantized", "safetensors"): "True; False is refused: pickles run code when opened",
    ("save_quantized", "shard_size"): "bytes, or \"5GB\", \"500MiB\"",
    ("generate", "*args"): "input ids",
    ("generate", "**kwargs"): "transformers' generation arguments (docs/python.md)",
    ("forward", "*args"): "input ids",
    ("forward", "**kwargs"): "attention_mask, output_hidden_states, output_attentions",
    ("to", "device"): "\"cpu\" or the GPU, as device_map has it; types are accepted and have no effect",
    ("fuse_layers", "model"): "nothing to do: fused steps are always used",
}
REFUSED = {("quantize", "quantizer_cls"): "the search is not Python; callback= follows it"}


def tables():
    from awq import automodel

    without = {("from_pretrained", n): why for n, why in automodel.LOADING.items()}
    without.update({("from_quantized", n): why for n, why in automodel.QUANTIZED.items()})
    without.update({("quantize", n): why for n, why in automodel.QUANTIZING.items()})
    for method, name in (("from_pretrained", "**model_init_kwargs"), ("from_quantized", "**config_kwargs"), ("quantize", "**kwargs")):
        without[(method, name)] = "known names of transformers and torch are accepted; an unknown one is a TypeError that names the nearest"
    return without


def theirs(root, file, class_name, method):
    """[(name, default or None)] as written in the source, self left out, * and ** marked."""
    tree = ast.parse((root / file).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for f in node.body:
                if isinstance(f, ast.FunctionDef) and f.name == method:
                    a = f.args
                    static = any(getattr(d, "id", "") == "staticmethod" for d in f.decorator_list)
                    names = [x.arg for x in a.args]
                    defaults = [None] * (len(names) - len(a.defaults)) + [ast.unparse(d) for d in a.defaults]
                    out = list(zip(names, defaults))[0 if static else 1:]
                    out += [("*" + a.vararg.arg, None)] if a.vararg else []
                    return out + ([("**" + a.kwarg.arg, None)] if a.kwarg else [])
    raise SystemExit(f"{root / file}: no {class_name}.{method}")


def ours(class_name, method):
    from awq import automodel

    owner = automodel.AutoAWQForCausalLM if class_name == "AutoAWQForCausalLM" else automodel.AwqModel
    parameters = inspect.signature(getattr(owner, method)).parameters.values()
    mark = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [mark.get(p.kind, "") + p.name for p in parameters if p.name != "self"]


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    root, without = pathlib.Path(sys.argv[1]), tables()
    lines, problems, counts = [], [], {"honoured": 0, "accepted, no effect": 0, "refused": 0}
    for file, class_name, method in METHODS:
        mine = ours(class_name, method)
        plain = [n.lstrip("_") for n in mine if not n.startswith("*")]
        for position, (name, default) in enumerate(theirs(root, file, class_name, method)):
            key = (method, name)
            if not name.startswith("*"):
                if name not in plain and "*args" not in mine:
                    problems.append(f"{class_name}.{method}: '{name}' is missing")
                elif name in plain and plain.index(name) != position:
                    problems.append(f"{class_name}.{method}: '{name}' is at position {plain.index(name)}, AutoAWQ has it at {position}")
            for kind, table in (("refused", REFUSED), ("honoured", HONOURED), ("accepted, no effect", without)):
                if key in table:
                    counts[kind] += 1
                    lines.append(f"| {method} | `{name}`{'' if default is None else f' = `{default}`'} | {kind} | {table[key]} |")
                    break
            else:
                problems.append(f"{class_name}.{method}: nothing says what became of '{name}'")
    head = "# AutoAWQ 0.2.9, argument by argument\n\nMade by `tests/python/compare_api.py` from AutoAWQ's source.\n\n"
    text = head + "| method | argument | here | how, or why not |\n|---|---|---|---|\n" + "\n".join(lines) + "\n"
    if "--markdown" in sys.argv:
        pathlib.Path(sys.argv[sys.argv.index("--markdown") + 1]).write_text(text)
    else:
        print(text)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{sum(counts.values())} arguments: " + ", ".join(f"{n} {k}" for k, n in counts.items()) + f"; {len(problems)} problems", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
