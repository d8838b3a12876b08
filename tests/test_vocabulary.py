"""Vocabulary: text that a user sees has the terms of docs/glossary.md, not those of the list below.

The tests read the help of every command, error codes, messages and hints in the source, columns, quality flags, pages,
templates of the report and settings files. Identifiers are read as words: ``closing_error_mm`` is "closing error mm".
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cmnet_cli.app import app
from cmnet_cli.tables.schema import DECLARED
from cmnet_core.errors import ErrorCode
from cmnet_core.qc.flags import FLAGS

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("cmnet_core", "cmnet_cli") for path in (ROOT / package).rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "manifests").glob("*.md")])
OTHER_TEXT = sorted(
    path
    for pattern in ("*.md", "*.html", "*.js", "*.toml")
    for package in ("core", "cli")
    for path in ROOT.glob(f"cmnet_{package}/**/{pattern}")
)

# Pattern → what to write instead, and a sentence that must be found.
WORDS = {
    r"legs?": ("training phase, fine-tuning", "the last leg of training"),
    r"look(s|ed|ing)?": ("cascade iteration; inspect, check", "DeformNet looks twice"),
    r"doubt(s|ed|ful)?": ("uncertainty; low confidence, ambiguous", "an orientation-doubtful image"),
    r"hearts": ("subjects, phantoms, cases", "twenty real hearts"),
    r"made (cines?|hearts?)": ("simulated cine", "20 made cines"),
    r"told|tell(s|ing)?": ("reported, stated, indicates", "the header tells nothing"),
    r"shares? of": ("fraction of, proportion of", "a share of the subjects"),
    r"([\d.]+|few|half a|about a|some) points?|, points": ("percentage points", "an EF that is 3 points too low"),
    r"(in|through|half|quarter of|sixteenth of|full) the plane|the full plane": (
        "in-plane, through-plane, half the in-plane resolution",
        "1.5 mm in the plane",
    ),
    r"carr(y|ies|ied|ying)": ("warp, propagate, copy", "labels carried by the motion"),
    r"anchored": ("ED-referenced, Lagrangian", "an ED-anchored motion"),
    r"closing error": ("cycle-consistency error", "the closing_error_mm"),
    r"nobody|whoever|somebody|everybody|everyone": ("no one, the user, each subject", "logs name nobody"),
    r"lies?|lying|stands?": ("is located, is stored", "the file lies beside the image"),
    r"manieth": ("every n-th", "every so manieth epoch"),
    r"leaves? the room": ("may be shared outside the institution", "pages that may leave the room"),
    r"wary|unlike": ("robust; mismatch, different from", "images unlike the training data"),
    r"ask(s|ed) for": ("requested, required, needs", "a flag that asks for attention"),
    r"(what|who) is seen": ("visible, the content", "what is seen of a heart"),
    r"held against": ("compared with", "fields are held against ours"),
    r"(is|are) worth": ("ablation", "what each part is worth"),
    r"opinion": ("prediction", "SegNet's opinion of a frame"),
}  # fmt: skip
ALLOWED = r"stands? for\b"
NOT_ALLOWED = {name: re.compile(rf"\b({name})\b", re.IGNORECASE) for name in WORDS}


def offences(text: str) -> list[str]:
    """Every word of the list in a text, with its surroundings and the words to use instead."""
    plain = re.sub(r"\s+", " ", re.sub(ALLOWED, "", text.replace("_", " "), flags=re.IGNORECASE))
    return [
        f"'{found[0]}' in '…{plain[max(found.start() - 40, 0) : found.end() + 40]}…': {WORDS[name][0]}"
        for name, pattern in NOT_ALLOWED.items()
        for found in pattern.finditer(plain)
    ]


def prose(path: Path) -> str:
    """String literals of a module that contain a space, without docstrings: messages, hints, help, labels."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # A string that is a statement of its own is a docstring, of a module, class, function or constant.
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    literals = (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
    )
    return "\n".join(literal for literal in literals if " " in literal)


def page_text(path: Path) -> str:
    """Text of a page; the changelog without code, since it names what was renamed; of scripts their strings."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".js":
        return "\n".join(re.findall(r"([\"'`][^\"'`\n]* [^\"'`\n]*[\"'`])", text))
    return re.sub(r"`[^`\n]+`", "", text) if path.name == "CHANGELOG.md" else text


def help_texts(command: Any, name: str) -> Iterator[tuple[str, str]]:
    """Help, option names, choices and defaults of a command and its subcommands."""
    parameters = [
        " ".join(
            map(
                str,
                (*item.opts, item.help or "", item.metavar or "", *getattr(getattr(item, "type", None), "choices", ())),
            )
        )
        for item in command.params
        if getattr(item, "opts", None)
    ]
    yield name, "\n".join([command.help or "", command.epilog or "", *parameters])
    for child, found in sorted(getattr(command, "commands", {}).items()):
        yield from help_texts(found, f"{name} {child}")


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("name", WORDS)
def test_each_word_is_found_when_it_is_put_back(name: str) -> None:
    replacement, sentence = WORDS[name]
    assert offences(sentence)
    assert offences(f"{sentence[0].upper()}{sentence[1:]}, and more\nof a page.")
    assert not offences(replacement.replace("; ", ", "))


@pytest.mark.parametrize(
    "sentence",
    [
        "GCS stands for global circumferential strain.",
        "a share-safe report on a file server",
        "an error of 3 percentage points",
        "scatter points and material points",
        "the valve plane descends",
        "cine MRI of the heart",
        "text-anchor: middle",
    ],
)
def test_the_field_s_own_words_are_allowed(sentence: str) -> None:
    assert offences(sentence) == []


def test_a_word_that_is_put_back_into_help_message_column_flag_or_page_is_found(tmp_path: Path) -> None:
    word = "hearts"
    group: Any = typer.main.get_command(app)
    group.commands["infer"].params[0].help = f"Process these {word}."
    assert any(word in found for _, text in help_texts(group, "cmnet") for found in offences(text))
    module = tmp_path / "module.py"
    module.write_text(f'"""Docs."""\nraise ImageError(f"{{n}} {word} are missing.", hint="Give them.")\n')
    assert offences(prose(module))
    module.write_text(f'"""Docs of {word}."""\nLIMIT = 3\n"""Of {word}."""\n')
    assert offences(prose(module)) == []
    page = tmp_path / "page.md"
    page.write_text(f"| 12 | {word} |")
    assert offences(page_text(page))


def test_help_of_every_command() -> None:
    texts = dict(help_texts(typer.main.get_command(app), "cmnet"))
    assert {"cmnet infer", "cmnet models list"} <= set(texts)
    assert {name: found for name, text in texts.items() if (found := offences(text))} == {}


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_messages_and_hints(path: Path) -> None:
    assert offences(prose(path)) == []


@pytest.mark.parametrize("path", PAGES, ids=place)
def test_pages(path: Path) -> None:
    assert offences(page_text(path)) == []


@pytest.mark.parametrize("path", OTHER_TEXT, ids=place)
def test_templates_settings_and_model_cards(path: Path) -> None:
    assert offences(page_text(path)) == []


def test_error_codes() -> None:
    assert offences("\n".join(ErrorCode)) == []


@pytest.mark.parametrize("table", DECLARED)
def test_columns(table: str) -> None:
    for column in DECLARED[table]:
        assert offences("\n".join((column.name, column.meaning, column.formula, column.source, column.unit))) == []


def test_flags() -> None:
    texts = {name: "\n".join((name, flag.raised, flag.advice)) for name, flag in FLAGS.items()}
    assert {name: found for name, text in texts.items() if (found := offences(text))} == {}


def test_columns_that_flags_name_exist() -> None:
    columns = {column.name for declared in DECLARED.values() for column in declared} | {"frame_ms", "heart_rate_bpm"}
    named = {
        word
        for flag in FLAGS.values()
        for word in re.findall(
            r"\b[a-z0-9]+(?:_[a-z0-9]+)*_(?:mm|ml|ms|pct|g|nats|bpm)\b", f"{flag.raised} {flag.advice}"
        )
    }
    assert named <= columns
