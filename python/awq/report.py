"""Small tables for notebooks."""
from __future__ import annotations

import html
from typing import Any, Dict, Iterable, List, Sequence, Tuple


def table(title: str, rows: Iterable[Tuple[str, Any]]) -> str:
    """Names and values."""
    body = "".join(f"<tr><th style='text-align:left'>{html.escape(str(n))}</th><td>{html.escape(str(v))}</td></tr>" for n, v in rows)
    return f"<table><caption>{html.escape(title)}</caption>{body}</table>"


def grid(rows: Sequence[Dict[str, Any]], columns: List[str]) -> str:
    """One line per row."""

    def cell(value: Any) -> str:
        return html.escape(f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value))

    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell(r.get(c))}</td>" for c in columns) + "</tr>" for r in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
