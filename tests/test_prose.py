"""scripts/prose counts what people read as text, and nothing else."""

import importlib.machinery
import importlib.util
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "prose"


@pytest.fixture(scope="module")
def prose():
    loader = importlib.machinery.SourceFileLoader("prose", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("prose", loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# Title\n\nShort it is.\n")
    (tmp_path / "CONTRIBUTING.md").write_text("Short, too.\n")
    return tmp_path


def sentence(words):
    return " ".join(["Word", *["word"] * (words - 1)]) + ".\n"


def test_tables_code_headings_pictures_and_comments_do_not_count(prose):
    text = """# A heading of five words

One
sentence with `x = 1. And more` and a [link to it](https://example.org/A.%20B).
[docs/a.md](docs/a.md) begins one.

![A picture. Of words](map.png)

| a table | of. Words |
|---|---|

```sh
make test  # a comment. Of words
```
<!-- faults: begin -->
- First item
- Second item, v1.5, e.g. This one. And *another.* "Last" one
"""
    assert prose.sentences(text) == [
        "One sentence with `x` and a link to it.",
        "`x` begins one.",
        "First item",
        "Second item, v1.5, e.g This one.",
        "And *another.",
        '"Last" one',
    ]


@pytest.mark.parametrize(("text", "words"), [("a b", 2), ("a - b", 2), ("→ 0.5 %", 1), ("don't say", 2), ("", 0)])
def test_a_word_holds_a_letter_or_digit(prose, text, words):
    assert prose.count(text) == words


def test_short_documents_pass(prose, folder, capsys):
    assert prose.main(["--check", "--root", str(folder)]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("README.md", sentence(9) * 101, "README.md: 909 words, expected at most 900"),
        ("README.md", sentence(26) + sentence(2) * 9, "README.md: 1 sentences of more than 25 words"),
        ("CONTRIBUTING.md", sentence(15), "CONTRIBUTING.md: 15.0 words a sentence, expected at most 14"),
    ],
)
def test_what_is_too_long_is_named(prose, folder, capsys, name, text, message):
    (folder / name).write_text(text)
    assert prose.main(["--check", "--root", str(folder)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", [sentence(9) * 100, sentence(25) + sentence(3)])
def test_the_limits_themselves_are_allowed(prose, folder, text):
    (folder / "README.md").write_text(prose.wrap(text))
    assert prose.main(["--check", "--root", str(folder)]) == 0


@pytest.mark.parametrize("name", ["CHANGELOG.md", "docs/notes.md", "calibration_data/README.md"])
def test_every_markdown_file_counts(prose, folder, capsys, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(sentence(24) + sentence(26))
    assert prose.main(["--check", "--root", str(folder)]) == 1
    said = capsys.readouterr().err
    assert f"{name}: 1 sentences of more than 25 words" in said
    assert f"{name}: 25.0 words a sentence, expected at most 14" in said


@pytest.mark.parametrize("name", ["out/notes.md", ".venv/lib/README.md", "node_modules/a/README.md"])
def test_what_commands_make_does_not_count(prose, folder, name):
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text(sentence(30))
    assert prose.main(["--check", "--root", str(folder)]) == 0


def test_the_longest_sentences_are_shown(prose, folder, capsys):
    (folder / "docs" / "notes.md").write_text(sentence(30))
    assert prose.main(["--longest", "1", "--root", str(folder), "docs/notes.md"]) == 0
    assert "30 words   30.0 a sentence, longest 30\n     30  Word word" in capsys.readouterr().out


WRAPPED = f"""# A heading that is longer than a line of text may be, {"and longer " * 8}

{" ".join(["Word."] * 16)}
Word.

1. {" ".join(["Word."] * 15)}
   `{"c " * 20}`
   - item

| {"cell | " * 30}
|---|

```sh
make {"target " * 20}
```
"""


def test_wide_lines_are_wrapped_and_all_else_is_left_alone(prose, folder, capsys):
    (folder / "docs" / "notes.md").write_text(WRAPPED)
    assert prose.main(["--check", "--root", str(folder)]) == 0
    wide = WRAPPED.replace("Word.\nWord.", "Word. Word.").replace("Word.\n   `", "Word. `")
    (folder / "docs" / "notes.md").write_text(wide)
    assert prose.main(["--check", "--root", str(folder)]) == 1
    assert "docs/notes.md: 2 lines of more than 100 columns" in capsys.readouterr().err
    assert prose.main(["--wrap", "--root", str(folder)]) == 0
    assert (folder / "docs" / "notes.md").read_text() == WRAPPED


@pytest.mark.parametrize("word", ["-", "+", "#", "|", "1."])
def test_no_line_begins_with_what_would_change_its_meaning(prose, word):
    text = prose.wrap("word " * 19 + f"words {word} " + "word " * 5)
    assert not any(line.startswith(word) for line in text.splitlines())
    assert prose.wrap(text) == text


def test_a_missing_document_is_named(prose, folder, capsys):
    assert prose.main(["--check", "--root", str(folder), "docs/none.md"]) == 1
    assert capsys.readouterr().err == "docs/none.md: no such document\n"


def test_lint_looks_at_none_of_the_caches_that_tests_leave():
    (SCRIPT.parent / "__pycache__").mkdir(exist_ok=True)
    command = ["make", "-n", "-o", ".venv-dev/.ready", "lint"]
    shown = subprocess.run(command, cwd=SCRIPT.parents[1], capture_output=True, text=True, check=True).stdout
    [scripts] = [line.split()[1:] for line in shown.splitlines() if "shellcheck " in line]
    assert "scripts/setup" in scripts
    assert all((SCRIPT.parents[1] / name).is_file() for name in scripts)
