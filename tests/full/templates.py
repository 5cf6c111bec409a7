#!/usr/bin/env python3
"""Random chat templates and conversations, rendered by us and by jinja2 as transformers sets it up.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install jinja2
    ninja -C build awq_render_templates
    /tmp/venv/bin/python tests/full/templates.py build/tests/awq_render_templates [--count 100000] [--seed 1]

Templates grow from a grammar of everything that the interpreter knows, with values of fitting and of wrong types. Both
must give the same text, or both must refuse. Without jinja2 or the program the script says so and is skipped (77)."""
import argparse
import json
import pathlib
import random
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "oracle"))
try:
    import jinja_chat
except ImportError:
    print("templates.py: skipped, jinja2 is not installed")
    sys.exit(77)

WORDS = ["user", "assistant", "system", "tool", "Hello, world", " padded  text ", "", "a,b,,c", "line one\nline two\n", "ÄÖ ß İ ǆ", "日本語のテキスト",
         "<b>&'\"</b>", "x" * 30, "42", " -7 ", "3.5e2", "nan", "it's", 'say "hi"', "tab\there", "\u2028sep\x1cend", "🙂👍🏽", "ΑΣ ΣΑΣ", "{}", "%s-%d",
         "_under_score", "MiXeD cAsE-word (paren) {brace}", "\u00a0nbsp\u3000", "</think>answer", "\\n literal", "\r\nCR"]
NAMES = ["a", "b", "c", "ns", "item", "messages", "tools", "flag", "n", "data", "undefined_name"]
SEPARATORS = '(separators=(\",\", \":\"))'
PREFIXES = '(\"a\", \"x\")'
SPLIT_COMMA = '.split(\",\")'
RSPLIT_BLANK = '.rsplit(\" \", 1)'
SPLIT_A = '.split(\"a\", 2)'
DICTSORT_VALUE = '|dictsort(true, \"value\")'
JOIN_COMMA = 'join(\", \")'
MIN_ROLE = 'min(attribute=\"role\")'
JOIN_ROLE = 'join(\"-\", attribute=\"role\")'
REPLACE_TITLE = 'replace(\"e\", \"3\") | title'
KEYS = ["role", "content", "name", "arguments", "missing", "x", "y"]


class Grower:
    def __init__(self, rng):
        self.rng = rng
        self.loops = 0
        self.macros = []

    def pick(self, *choices):
        return self.rng.choice(choices)

    # --- expressions, by the type that is wanted

    def literal_string(self):
        text = self.rng.choice(WORDS)
        quote = self.pick("'", '"')
        body = text.replace("\\", "\\\\").replace("\n", self.pick("\\n", "\n")).replace("\r", "\\r").replace(quote, "\\" + quote)
        return quote + body + quote

    def string(self, d):
        r = self.rng.random()
        if d <= 0 or r < 0.22:
            return self.pick(self.literal_string(), self.literal_string(), "messages[0].content", "messages[0]['role']", "bos_token", "data.s")
        s = lambda: self.string(d - 1)
        i = lambda: self.integer(d - 1)
        if r < 0.34:
            return f"{s()} {self.pick('+', '~')} {self.pick(s, s, lambda: self.any(d - 1))()}"
        if r < 0.58:
            f = self.pick("trim", "upper", "lower", "title", "capitalize", "string", "reverse", "indent", f"indent({self.rng.randint(0, 5)}, true)",
                          "indent(2, first=true, blank=true)", f"replace({self.literal_string()}, {self.literal_string()})", f"replace({self.literal_string()}, '-', {self.rng.randint(0, 3)})",
                          f"truncate({self.rng.randint(3, 20)})", "truncate(9, true, '..', 0)", f"center({self.rng.randint(0, 20)})", "default('d')", "d('e', true)", "e", "safe", "forceescape",
                          f"trim({self.literal_string()})", "first", "last", "urlencode")
            return f"({s()})|{f}"
        if r < 0.78:
            m = self.pick("strip()", "lstrip()", "rstrip()", f"strip({self.literal_string()})", "upper()", "lower()", "title()", "capitalize()", "swapcase()", f"replace({self.literal_string()}, {self.literal_string()})",
                          f"center({i()})", f"ljust({i()}, '.')", f"rjust({i()})", f"zfill({i()})", f"removeprefix({self.literal_string()})", f"removesuffix({self.literal_string()})", "expandtabs(4)", f"join({self.list(d - 1)}|map('string'))",
                          "casefold()", f"split({self.literal_string()})[0]", "split()[-1]", "splitlines()[0]", f"partition({self.literal_string()})[{self.rng.randint(0, 2)}]", f"rpartition({self.literal_string()})[2]",
                          f"format({s()}, {i()}, name={s()})")
            return f"({s()}).{m}"
        if r < 0.84:
            return f"({s()})[{self.slice(d)}]"
        if r < 0.88:
            spec = self.pick("%s", "%r", "%5s|", "%-5s|", "%d", "%05d", "%x", "%.2f", "%+d", "%e", "%g", "%%", "%.3s", "% d", "%i")
            return f"{self.pick(repr(spec), repr('<' + spec + '>'))} % {self.pick(i, s, lambda: self.real(d - 1))()}" if self.rng.random() < .7 else f"'{spec}'|format({self.any(d - 1)})"
        if r < 0.92:
            spec = self.pick("", ":>8", ":<8", ":^9", ":05", ":,", ":.2f", ":x", ":*^11", "!r", ":+d", ":%", ":.3", ":s", ":d", ":e", ":08.3f")
            return f"'[{{{spec}}}]'.format({self.any(d - 1)})"
        if r < 0.96:
            return f"({self.any(d - 1)})|tojson{self.pick('', '(indent=2)', '(sort_keys=true)', '(ensure_ascii=true)', '(indent=1, separators=(1|string, 2|string))', SEPARATORS)}"
        return f"({s()} if {self.boolean(d - 1)} else {s()})"

    def slice(self, d):
        part = lambda: self.pick("", "", str(self.rng.randint(-6, 6)), self.integer(d - 2))
        return self.pick(f"{part()}:{part()}", f"{part()}:{part()}:{self.pick('', '1', '-1', '2', '-2')}", str(self.rng.randint(-4, 4)))

    def integer(self, d):
        r = self.rng.random()
        if d <= 0 or r < 0.4:
            return self.pick(str(self.rng.randint(0, 12)), str(self.rng.randint(-5, 40)), "n", "messages|length", "1_000", "0x1F", "0b101", "0o17")
        i = lambda: self.integer(d - 1)
        if r < 0.6:
            return f"({i()} {self.pick('+', '-', '*', '//', '%')} {i()})"
        if r < 0.72:
            return self.pick(f"({self.any(d - 1)})|length", f"({self.string(d - 1)})|wordcount", f"({self.list(d - 1)})|count", f"({self.real(d - 1)})|int", f"({self.string(d - 1)})|int(default={i()})", f"{i()}|abs",
                             f"({self.real(d - 1)})|round|int", f"({self.string(d - 1)})|int(7, 16)")
        if r < 0.84:
            m = self.pick(f"find({self.literal_string()})", f"rfind({self.literal_string()})", f"count({self.literal_string()})", f"find({self.literal_string()}, {i()})")
            return f"({self.string(d - 1)}).{m}"
        if r < 0.9:
            return f"(-{i()})"
        if r < 0.94:
            return f"range({i()})|sum"
        return f"({i()} if {self.boolean(d - 1)} else {i()})"

    def real(self, d):
        if d <= 0 or self.rng.random() < 0.4:
            return self.pick("0.5", "2.0", "1e3", "3.14159", "1e-7", "12345678.9", "2.5", "1e16", "0.1")
        return self.pick(f"({self.integer(d - 1)} / {self.rng.randint(1, 9)})", f"({self.real(d - 1)} {self.pick('+', '-', '*')} {self.real(d - 1)})", f"({self.string(d - 1)})|float", f"({self.real(d - 1)})|round({self.rng.randint(0, 3)})",
                         f"({self.real(d - 1)})|round(1, '{self.pick('ceil', 'floor', 'common')}')", f"({self.real(d - 1)} // 0.3)", f"({self.real(d - 1)} % 0.7)", f"(2 ** {self.rng.randint(-3, 6)})")

    def boolean(self, d):
        r = self.rng.random()
        if d <= 0 or r < 0.15:
            return self.pick("true", "false", "flag", "not flag", "add_generation_prompt", "tools")
        if r < 0.4:
            return f"({self.any(d - 1)}) {self.pick('==', '!=')} ({self.any(d - 1)})" if self.rng.random() < .4 else f"{self.integer(d - 1)} {self.pick('<', '<=', '>', '>=', '==', '!=')} {self.pick(self.integer, self.real)(d - 1)}"
        if r < 0.65:
            t = self.pick("defined", "undefined", "none", "string", "mapping", "sequence", "iterable", "number", "integer", "float", "boolean", "true", "false", "callable", "sameas none", "in [1, 'user', none]", "eq 1", "equalto('user')", "ne 2",
                          "lower", "upper", "escaped", "not none", "not string", "not defined")
            return f"({self.any(d - 1)}) is {t}"
        if r < 0.72:
            return self.pick(f"{self.integer(d - 1)} is {self.pick('odd', 'even', 'divisibleby 3', 'divisibleby(2)', 'gt 3', 'lt(9)', 'ge 2')}", f"'{self.pick('upper', 'nothing')}' is filter", f"1 < {self.integer(d - 1)} <= 7")
        if r < 0.82:
            return f"({self.any(d - 1)}) {self.pick('in', 'not in')} ({self.pick(self.list, self.string, self.dict)(d - 1)})"
        if r < 0.9:
            m = self.pick("startswith", "endswith")
            return f"({self.string(d - 1)}).{m}({self.pick(self.literal_string(), PREFIXES)})" if self.rng.random() < .6 else f"({self.string(d - 1)}).{self.pick('isdigit', 'isalpha', 'isspace', 'isupper', 'islower', 'isalnum', 'istitle', 'isnumeric', 'isascii')}()"
        return f"({self.boolean(d - 1)} {self.pick('and', 'or')} {self.pick('', 'not ')}{self.boolean(d - 1)})"

    def list(self, d):
        r = self.rng.random()
        if d <= 0 or r < 0.2:
            return self.pick("messages", "[]", "[1, 2, 3]", "['b', 'A', 'c', 'a']", "data.l", "[3, 1, 2, 1]", "()", "(1, 'two', none)", "messages[1:]", "range(4)|list", "[[1, 2], [3]]")
        if r < 0.4:
            return "[" + ", ".join(self.any(d - 1) for _ in range(self.rng.randint(0, 4))) + "]"
        el = lambda: self.list(d - 1)
        if r < 0.75:
            f = self.pick("sort", "sort(reverse=true)", "unique|list", "reverse|list", "map('string')|list", "map('upper')|list", "select|list", "reject|list", "select('string')|list", "reject('none')|list", "select('gt', 1)|list",
                          "map(attribute='role')|list", "map(attribute='x', default='-')|list", "selectattr('role', 'equalto', 'user')|list", "rejectattr('role', 'in', ['user'])|list", "selectattr('name')|list", "selectattr('name', 'defined')|list",
                          "batch(2)|list", "batch(3, 0)|list", "slice(2)|list", "list", "sort(attribute='role')", "map('length')|list", "map('trim')|list", "map('tojson')|list", "sort(case_sensitive=true)", "groupby('role')|list", "unique(case_sensitive=true)|list",
                          "map(attribute='content')|map('string')|list", "map('int')|list", "map('default', 0)|list", "map('replace', 'a', 'b')|list")
            return f"({el()})|{f}"
        if r < 0.85:
            return f"({self.string(d - 1)}){self.pick('.split()', SPLIT_COMMA, '.splitlines()', RSPLIT_BLANK, '|list', SPLIT_A, '.splitlines(true)', '.rsplit()', '.rsplit(none, 1)')}"
        if r < 0.92:
            return self.pick(f"({self.dict(d - 1)}){self.pick('.keys()|list', '.values()|list', '.items()|list', '|items|list', '|dictsort', DICTSORT_VALUE, '|list', '|dictsort(reverse=true)')}", f"({el()} + {el()})", f"({el()})[{self.slice(d)}]", f"({el()}) * 2",
                             f"range({self.integer(d - 1)})|list", f"range(1, {self.rng.randint(0, 9)}, 2)|list", "range(5, 0, -2)|list")
        return f"({el()} if {self.boolean(d - 1)} else {el()})"

    def dict(self, d):
        if d <= 0 or self.rng.random() < 0.4:
            return self.pick("messages[0]", "messages[-1]", "{}", "data", "{'a': 1, 'B': 2}", "dict(x=1, y='z')", "{1: 'one', 'k': none}", "data.d")
        return "{" + ", ".join(f"{self.literal_string()}: {self.any(d - 1)}" for _ in range(self.rng.randint(0, 3))) + "}"

    def any(self, d):
        r = self.rng.random()
        if r < 0.3:
            return self.string(d)
        if r < 0.42:
            return self.integer(d)
        if r < 0.5:
            return self.list(d)
        if r < 0.58:
            return self.dict(d)
        if r < 0.64:
            return self.boolean(d)
        if r < 0.68:
            return self.real(d)
        if r < 0.72:
            return "none"
        if r < 0.8:
            return self.rng.choice(NAMES)
        if r < 0.84:
            return f"messages[{self.rng.randint(-3, 3)}].{self.rng.choice(KEYS)}"
        if r < 0.87:
            return f"data{self.pick('.', '.d.')}{self.rng.choice(KEYS)}"
        if r < 0.9:
            return self.pick(f"({self.list(d - 1)})|{self.pick('first', 'last', 'min', 'max', 'join', JOIN_COMMA, 'sum', 'length', MIN_ROLE, JOIN_ROLE)}", f"({self.dict(d - 1)}).get({self.literal_string()}{self.pick('', ', 5')})", f"({self.dict(d - 1)})[{self.literal_string()}]",
                             f"({self.list(d - 1)})[{self.rng.randint(-3, 3)}]", f"({self.string(d - 1)})|attr('nothing')")
        if r < 0.93 and self.macros:
            return self.call(d - 1)
        if r < 0.97 and self.loops:
            return "loop." + self.pick("index", "index0", "first", "last", "length", "revindex", "revindex0", "previtem", "nextitem", "depth", "cycle('x', 'y')", "changed(item)", "missing")
        return self.pick("ns.count", "ns.text", "(1, 2)", "strftime_now('%d %b %Y')", "strftime_now('%Y-%m-%d %H:%M')", "ns.nothing", "cyc.next()")

    def call(self, d):
        name, count = self.rng.choice(self.macros)
        args = [self.any(d) for _ in range(self.rng.randint(0, count))]
        if self.rng.random() < 0.3:
            args.append(f"k={self.any(d)}")
        return f"{name}({', '.join(args)})"

    # --- statements

    def open(self):
        return "{%" + self.pick("", "", "-", "-", "+")

    def close(self):
        return self.pick("", "", "-", "-", "+") + "%}"

    def tag(self, text):
        return f"{self.open()} {text} {self.close()}"

    def text(self):
        return self.pick("", " ", "\n", "\n  ", "text", "<|im_start|>", "  \n\n", "a { b } % c", "\t", "end.\n", "x\n    ", "{ ", "#}")

    def output(self, d):
        return "{{" + self.pick("", "-", "") + " " + self.any(d) + " " + self.pick("", "-", "") + "}}"

    def statements(self, d, n=None):
        return "".join(self.text() + self.statement(d) + self.text() for _ in range(n or self.rng.randint(1, 3)))

    def statement(self, d):
        r = self.rng.random()
        if d <= 0 or r < 0.3:
            return self.output(self.rng.randint(1, 3))
        if r < 0.45:
            t = self.tag(f"if {self.boolean(2)}") + self.statements(d - 1)
            for _ in range(self.rng.choice([0, 0, 1])):
                t += self.tag(f"elif {self.boolean(2)}") + self.statements(d - 1)
            if self.rng.random() < 0.5:
                t += self.tag("else") + self.statements(d - 1)
            return t + self.tag("endif")
        if r < 0.62:
            return self.loop(d)
        if r < 0.76:
            target = self.pick("a", "b", "c", "item", "n", "ns.count", "ns.text", "ns.new", "a, b", "messages")
            if target.startswith("ns.count"):
                return self.tag(f"set ns.count = {self.pick('ns.count + 1', self.integer(2))}")
            return self.tag(f"set {target} = {self.any(2) if ',' not in target else self.any(1) + ', ' + self.any(1)}")
        if r < 0.82:
            f = self.pick("", " | trim", " | upper", " | replace('a', 'b') | length", " | indent(3)")
            return self.tag(f"set {self.pick('a', 'b', 'ns.text')}{f}") + self.statements(d - 1) + self.tag("endset")
        if r < 0.86:
            return self.tag(f"filter {self.pick('upper', 'trim', 'indent(2)', REPLACE_TITLE)}") + self.statements(d - 1) + self.tag("endfilter")
        if r < 0.9:
            return self.tag(f"with {self.pick('a', 'b')} = {self.any(2)}, z = {self.any(1)}") + self.statements(d - 1) + self.tag("endwith")
        if r < 0.93:
            return self.macro(d)
        if r < 0.95 and self.macros:
            params, body_loops = self.pick("", "(u)", "(u, v=3)"), self.loops
            self.loops = 0
            text = self.tag(f"call{params} {self.call(1)}") + self.statements(d - 1) + self.tag("endcall")
            self.loops = body_loops
            return text
        if r < 0.97:
            outer, self.loops = self.loops, 0
            text = self.tag("generation") + self.statements(d - 1) + self.tag("endgeneration")
            self.loops = outer
            return text
        if r < 0.985 and self.loops:
            return self.tag(f"if {self.boolean(1)}") + self.tag(self.pick("break", "continue")) + self.tag("endif")
        return self.pick("{# a comment #}", "{#- stripped -#}\n", "{% raw %}{{ raw }} {% x %}{% endraw %}", "{%- raw -%} {{ r }} {%- endraw -%}\n", "{# multi\nline #}\n")

    def loop(self, d):
        it = self.pick("messages", "messages[1:]", self.list(2), self.list(2), "range(3)", "messages|selectattr('role', 'defined')", "data.d|dictsort", "data.d.items()", f"({self.string(1)})")
        target = self.pick("k, v", "k, v") if "items()" in it or "dictsort" in it else self.pick("item", "item", "m", "a")
        cond = f" if {self.boolean(1)}" if self.rng.random() < 0.2 else ""
        outer, self.loops = self.loops, self.loops + 1
        text = self.tag(f"for {target} in {it}{cond}") + self.statements(d - 1)
        self.loops = outer
        if self.rng.random() < 0.2:
            text += self.tag("else") + self.statements(d - 1)
        return text + self.tag("endfor")

    def macro(self, d):
        name = f"m{len(self.macros)}"
        count = self.rng.randint(0, 3)
        params = [f"p{i}" + (f"={self.any(1)}" if i >= 1 else "") for i in range(count)]
        outer, self.loops = self.loops, 0
        body = self.statements(d - 1)
        extra = self.pick("", "", "", "{{ caller() if caller is defined }}", "{{ varargs|length }}", "{{ kwargs|length }}", "{{ p0 }}", "{{ caller(1, 2) }}")
        self.loops = outer
        self.macros.append((name, count))
        return self.tag(f"macro {name}({', '.join(params)})") + body + extra + self.tag("endmacro")

    def template(self):
        head = "{% set ns = namespace(count=0, text='t') %}{% set cyc = cycler(1, 'two') %}" if self.rng.random() < 0.9 else ""
        return head + self.statements(3, self.rng.randint(1, 5))


def conversation(rng):
    word = lambda: rng.choice(WORDS)
    messages = []
    for _ in range(rng.randint(0, 5)):
        m = {"role": rng.choice(["user", "assistant", "system", "tool"]), "content": rng.choice([word(), word(), None, [{"type": "text", "text": word()}]])}
        if rng.random() < 0.3:
            m["name"] = word()
        if rng.random() < 0.2:
            m["tool_calls"] = [{"type": "function", "function": {"name": "f", "arguments": {"x": rng.randint(-3, 3), "y": [word(), 1.5, True, None]}}}]
        messages.append(m)
    return {"messages": messages, "tools": rng.choice([None, [], [{"type": "function", "function": {"name": "f", "description": word(), "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}}]]),
            "add_generation_prompt": rng.random() < 0.5, "bos_token": "<s>", "flag": rng.random() < 0.5, "n": rng.randint(-3, 9),
            "data": {"s": word(), "l": [1, "b", None, 2.5][: rng.randint(0, 4)], "d": {"x": rng.randint(0, 9), "name": word(), "Y": word()}, "items": word()}}


def expected(env, source, context):
    try:
        text, spans = jinja_chat.render(env, source, context)
        return {"text": text, "generation": spans}
    except Exception as error:  # noqa: BLE001: whatever stops jinja2 counts as its refusal
        return {"error": f"{type(error).__name__}: {error}"}


def agree(ours, theirs):
    if "error" in theirs:
        # jinja2 writes a constant that is no finite number into the Python that it compiles, as a name.
        return "error" in ours or re.search("NameError: name '(nan|inf)'", theirs["error"]) is not None
    # Python's integers have no end, and generator objects print their address.
    if "64 bits" in ours.get("error", "") or re.search("0x[0-9a-f]{8}", theirs["text"], re.IGNORECASE):
        return True
    return ours.get("text") == theirs["text"] and ours["generation"] == theirs["generation"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--count", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=5)
    args = parser.parse_args()
    if not pathlib.Path(args.program).exists():
        print(f"templates.py: skipped, {args.program} is not built")
        return 77
    env = jinja_chat.environment()
    rng = random.Random(args.seed)
    done = refused = different = 0
    while done < args.count:
        cases = []
        for _ in range(min(2000, args.count - done)):
            source = Grower(rng).template()
            cases.append((source, conversation(rng)))
        lines = "".join(json.dumps({"template": s, "context": c, "now": jinja_chat.NOW}) + "\n" for s, c in cases)
        out = subprocess.run([args.program], input=lines.encode(), stdout=subprocess.PIPE, check=True).stdout.decode().split("\n")[:-1]
        assert len(out) == len(cases), "the program stopped early"
        for (source, context), line in zip(cases, out):
            ours, theirs = json.loads(line), expected(env, source, context)
            refused += "error" in theirs
            if not agree(ours, theirs):
                different += 1
                if different <= args.show:
                    print("DIFFERENT", json.dumps({"template": source, "context": context}, ensure_ascii=False))
                    print("  ours  ", json.dumps(ours, ensure_ascii=False))
                    print("  jinja2", json.dumps(theirs, ensure_ascii=False))
        done += len(cases)
    print(f"{done} templates, {done - refused} rendered and {refused} refused by jinja2, {different} different")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
