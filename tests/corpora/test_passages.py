"""Passages of a text file, and what is said of a file that has none."""

import pytest

import tl_truncate as tlt
from tl_truncate.corpora.corpus import read_rows
from tl_truncate.corpora.passages import read_passages


def test_empty_lines_divide_and_line_ends_are_spaces(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes("\n\nThe  king\twalked\nto Paris. \r\n \t \r\n\n\nÜber “Mary”.".encode())
    assert list(read_passages(file)) == ["The  king\twalked to Paris.", "Über “Mary”."]
    assert list(read_passages(str(file))) == list(read_passages(file))


def test_a_mark_of_byte_order_is_no_part_of_the_text(tmp_path):
    (tmp_path / "text.txt").write_text("Mary", encoding="utf-8-sig")
    assert list(read_passages(tmp_path / "text.txt")) == ["Mary"]


def test_a_corpus_is_read_in_this_way(tmp_path, toy):
    (tmp_path / "text.txt").write_text("Mary gave\na drink\n\n\n\nthe store\n")
    rows = [row.tokens for row in read_rows(toy, tmp_path / "text.txt", prepend_bos=False)]
    assert rows == [
        row.tokens for row in read_rows(toy, ["Mary gave a drink", "the store"], prepend_bos=False)
    ]


@pytest.mark.parametrize(
    ("content", "error", "wording"),
    [
        (None, FileNotFoundError, "must be a text file that exists, got '.*text.txt'"),
        (b" \n\n\t\n", ValueError, "must have at least one passage, got none in '.*text.txt'"),
        ("Über".encode("latin-1"), ValueError, "must be a text file in UTF-8.*Save it as UTF-8"),
    ],
)
def test_what_a_file_must_be(tmp_path, content, error, wording):
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(error, match=wording):
        list(read_passages(tmp_path / "text.txt"))


def test_what_ships_is_passages_too():
    assert all(text == " ".join(text.split()) and text for text in tlt.sample_texts())
