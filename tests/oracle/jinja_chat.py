"""Renders chat templates with PyPI jinja2 in the environment that transformers sets up for them
(utils/chat_template_utils.py): the oracle of tests/oracle/record_templates.py and tests/full/templates.py."""
import datetime
import json

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

NOW = 1753972245  # 2025-07-31 14:30:45, read as local time


class Generation(jinja2.ext.Extension):
    """{% generation %}: where in the text the assistant speaks."""
    tags = {"generation"}

    def __init__(self, environment):
        super().__init__(environment)
        environment.extend(rendered=None, spans=None)

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _note(self, context, caller):
        text = caller()
        begin = len("".join(self.environment.rendered).encode())
        self.environment.spans.append([begin, begin + len(text.encode())])
        return text


def _raise(message):
    raise jinja2.exceptions.TemplateError(message)


def _tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(format):
    return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(format)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                       extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _raise
    env.globals["strftime_now"] = _now
    return env


def render(env, source, context):
    """(text, spans), or raises what jinja2 raises."""
    template = env.from_string(source)
    env.rendered, env.spans = [], []
    for piece in template.generate(**context):
        env.rendered.append(piece)
    return "".join(env.rendered), env.spans
