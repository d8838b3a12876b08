"""The help page of a command: plain text of at most 80 columns, options by group, and examples at the end."""

from typing import Any

from typer.core import TyperCommand, TyperGroup

# The panels of a help page, in its order.
_ARGUMENTS, _OPTIONS = "Arguments", "Options"
SUBJECTS = "Subjects"
EXECUTION = "Execution"
MESSAGES = "Messages"

_HEADING = "Examples:"
_WIDEST_OPTION = 28


def split_examples(text: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the description of a docstring, and the command lines of its section "Examples"."""
    description, _, examples = (text or "").partition(_HEADING)
    return description.strip(), tuple(line.strip() for line in examples.splitlines() if line.strip())


class Command(TyperCommand):
    """A command whose help page is plain text: two columns leave more room for the text than Rich's tables have."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the description."""
        del ctx
        formatter.write_paragraph()
        formatter.write_text(split_examples(self.help)[0])

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options by group, and the examples."""
        _write_options(self, ctx, formatter)
        examples = split_examples(self.help)[1]
        if examples:
            with formatter.section(_HEADING.rstrip(":")):
                for example in examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class Group(TyperGroup):
    """A group of commands, whose help page lists them by panel."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands by panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                panel = _panel_of(command) or "Commands"
                panels.setdefault(panel, []).append((name, command.get_short_help_str(1000)))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, then the options."""
        self.format_commands(ctx, formatter)
        _write_options(self, ctx, formatter)


def _panel_of(item: Any) -> str | None:
    panel = getattr(item, "rich_help_panel", None)
    return panel if isinstance(panel, str) else None


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    panels: dict[str, list[tuple[str, str]]] = {
        panel: [] for panel in (_ARGUMENTS, _OPTIONS, SUBJECTS, EXECUTION, MESSAGES)
    }
    for item in command.get_params(ctx):
        record = item.get_help_record(ctx)
        if record is not None:
            panels[_panel_of(item) or (_ARGUMENTS if item.param_type_name == "argument" else _OPTIONS)].append(record)
    for panel, rows in panels.items():
        if rows:
            with formatter.section(panel):
                formatter.write_dl(rows, col_max=_WIDEST_OPTION)
