"""Write docs/commands.md from the help of the command line: python docs/generate_commands.py."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from cmnet_cli.app import app
from cmnet_cli.help_page import split_examples

PAGE = Path(__file__).with_name("commands.md")
_HEAD = """# Commands

Generated from `cmnet --help` by `docs/generate_commands.py`; a test checks that it is up to date.

```
cmnet infer --manifest cohort.csv && cmnet indices && cmnet report
```

is a whole analysis: `--out` and `--run` default to `./cmnet-run`.

Exit codes: 0 done, 1 a defect in cmnet, 2 wrong usage, 3 bad input and nothing was run, 4 some subjects failed and all
others are done, 130 interrupted and resumable. [Error codes](errors.md) explains each error.
"""


def render() -> str:
    """Return the page for the current command line."""
    group: Any = typer.main.get_command(app)
    return "\n".join([_HEAD, *_sections(group, "cmnet")]) + "\n"


def _sections(group: Any, prefix: str) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        full = f"{prefix} {name}"
        if hasattr(command, "commands"):
            yield from _sections(command, full)
        else:
            yield from _section(full, command)


def _section(full: str, command: Any) -> Iterator[str]:
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    options = [item for item in command.params if item.param_type_name == "option" and item.name != "help"]
    yield f"## {' '.join([full, *(_shown_argument(item) for item in arguments)])}\n"
    description, examples = split_examples(command.help)
    yield f"{description}\n"
    if examples:
        yield "\n".join(["```", *examples, "```", ""])
    if arguments or options:
        yield "| option | meaning | default |\n|---|---|---|"
        yield from (f"| {_shown_argument(item)} | {item.help} | {_default(item)} |" for item in arguments)
        yield from (f"| {_names(item)} | {item.help} | {_default(item)} |" for item in options)
        yield ""


def _shown_argument(item: Any) -> str:
    return str(item.name.upper())


def _names(item: Any) -> str:
    return ", ".join(f"`{name}`" for name in sorted(item.opts, key=len, reverse=True))


def _default(item: Any) -> str:
    if item.required:
        return "required"
    if isinstance(item.show_default, str):
        return item.show_default
    if item.default is None or item.default is False or item.default == ():
        return ""
    return f"`{getattr(item.default, 'value', item.default)}`"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
