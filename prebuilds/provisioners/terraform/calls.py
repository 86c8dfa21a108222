"""The modules that a module calls, found without Terraform: each must be in the folder that a version keeps."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from prebuilds.provisioners.kit.trees import KeptFile, Tree, folders_of, resolve

TEXT_ENDINGS, JSON_ENDINGS = (".tf", ".tofu"), (".tf.json", ".tofu.json")
ENDINGS = (*TEXT_ENDINGS, *JSON_ENDINGS)
"""How the names of a module's files end. OpenTofu also reads those of `.tofu`, Terraform does not."""
LOCAL = ("./", "../")
"""How the address of a module in a folder begins. Other addresses are fetched by `init`."""
ELSEWHERE = re.compile(r"(?:file::|file://|/|[A-Za-z]:[\\/]|~/)")
"""How an address of the host's own files begins, beside `LOCAL`."""
FOLDERS_MAX = 500
"""Bound on the folders that are followed. Terraform itself refuses a module that calls itself."""

_TOKEN = re.compile(
    r"""
    (?:\#|//)[^\n]* | /\*.*?\*/                                          # a comment
    | <<-?([A-Za-z_][\w-]*)[ \t]*\r?\n .*? ^[ \t]*\1[ \t]*\r?$           # a heredoc
    | [A-Za-z_][\w-]* | [{}="]
    """,
    re.S | re.M | re.X,
)
_IN_STRING = re.compile(r'\\.|\$\$\{|%%\{|[$%]\{|"')
_IN_FILLING = re.compile(r'[{}"]')


def text_of(tree: Tree, path: str) -> str | None:
    """Return the text of the file that *path* leads to; None when there is none. A byte order mark is left out."""
    found = resolve(tree, path)
    entry = tree.get(found) if found is not None else None
    return entry.data.decode("utf-8-sig", errors="replace") if isinstance(entry, KeptFile) else None


def texts_in(tree: Tree, folder: str = "") -> dict[str, str]:
    """Return the Terraform files of one folder: name -> text. Links count as the files that they lead to."""
    at = resolve(tree, folder)
    if at is None:
        return {}
    prefix = f"{at}/" if at else ""
    names = [path.removeprefix(prefix) for path in tree if path.startswith(prefix)]
    found = {name: text_of(tree, prefix + name) for name in names if "/" not in name and name.endswith(ENDINGS)}
    return {name: text for name, text in found.items() if text is not None}


def is_json(name: str) -> bool:
    """Return whether a module's file is written in JSON."""
    return name.endswith(JSON_ENDINGS)


def local_calls(tree: Tree) -> list[str]:
    """Name each call of the tree's own folder that leads to the host's files, with file and line."""
    return [
        f"{name}:{line}: module source {json.dumps(source)}"
        for name, text in texts_in(tree).items()
        for line, source in calls_in(name, text)
        if source.startswith(LOCAL) or ELSEWHERE.match(source)
    ]


def calls_outside(tree: Tree) -> list[str]:
    """Return a message for each called module that is not in the tree, with file and line.

    Only modules that the tree's own folder calls, directly or through others, are looked at: a folder of examples, for
    instance, may call what it likes.
    """
    problems: list[str] = []
    folders, waiting, seen = folders_of(tree), [""], {""}
    while waiting and len(seen) <= FOLDERS_MAX:
        folder = waiting.pop()
        for name, text in texts_in(tree, folder).items():
            for line, source in calls_in(name, text):
                where = f"{posixpath.join(folder, name)}:{line}: module source {json.dumps(source)}"
                if not source.startswith(LOCAL):
                    if ELSEWHERE.match(source):
                        problems.append(f"{where} is on this host only; copy the module into the folder")
                    continue
                called = posixpath.normpath(posixpath.join(folder, source))
                called = "" if called == "." else called
                if called.startswith("..") or (at := resolve(tree, called)) is None:
                    problems.append(f"{where} is outside the folder; copy it into the folder, or name the folder above")
                elif at not in folders or not texts_in(tree, called):
                    problems.append(f"{where} has no .tf file in the folder")
                elif called not in seen:
                    seen.add(called)
                    waiting.append(called)
    return problems


def calls_in(name: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, source) of each module that a Terraform file calls. A source that is no plain text is left out."""
    if is_json(name):
        yield from _calls_in_json(text)
        return
    tokens = list(_tokens(text))
    depth, in_module = 0, False
    for index, (at, word) in enumerate(tokens):
        if word == "{":
            if depth == 0:
                in_module = index >= 2 and tokens[index - 2][1] == "module"  # `module "name" {`
            depth += 1
        elif word == "}":
            depth -= 1
        elif word == "source" and depth == 1 and in_module:
            value = [following for _, following in tokens[index + 1 : index + 3]]
            if len(value) == 2 and value[0] == "=" and value[1].startswith('"') and "${" not in value[1]:
                yield text.count("\n", 0, at) + 1, value[1][1:-1]


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    """Yield (position, token) of words, braces, equals signs and whole strings; comments and heredocs are left out."""
    at = 0
    while (found := _TOKEN.search(text, at)) is not None:
        start, at = found.start(), found.end()
        if found[0] == '"':
            at = _end_of_string(text, at)
            yield start, text[start:at]
        elif found[0][0] not in "#/<":
            yield start, found[0]


def _end_of_string(text: str, at: int) -> int:
    """Return the position after a string's closing quote. A `${...}` in it may have strings of its own.

    Args:
        at: The position after the opening quote.
    """
    inside = ['"']
    while inside:
        pattern = _IN_STRING if inside[-1] == '"' else _IN_FILLING
        if (found := pattern.search(text, at)) is None:
            return len(text)  # Terraform's own error says more
        at, word = found.end(), found[0]
        if word == inside[-1] == '"' or word == "}":
            inside.pop()
        elif word == '"':
            inside.append(word)
        elif word in ("${", "%{", "{"):
            inside.append("{")
    return at


def blocks_in(text: str, kind: str) -> Iterator[tuple[str, Any]]:
    """Yield the (name, value) of each block of *kind* in a `.tf.json` file; nothing when it cannot be read."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        return  # Terraform's own error says more
    blocks = found.get(kind) if isinstance(found, Mapping) else None
    for part in blocks if isinstance(blocks, list) else [blocks]:
        if isinstance(part, Mapping):
            yield from ((str(name), value) for name, value in part.items())


def _calls_in_json(text: str) -> Iterator[tuple[int, str]]:
    for _, value in blocks_in(text, "module"):
        for call in value if isinstance(value, list) else [value]:
            source = call.get("source") if isinstance(call, Mapping) else None
            if isinstance(source, str):
                yield text.count("\n", 0, max(text.find(json.dumps(source)), 0)) + 1, source
