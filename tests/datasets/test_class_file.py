"""The class file: names a line, or JSON with colours and void."""

import json

import pytest

from ralx.datasets import DataError
from ralx.datasets.class_file import ClassList, read_classes


@pytest.fixture
def read(tmp_path):
    def read(content) -> ClassList:
        path = tmp_path / "classes"
        path.write_bytes(content if isinstance(content, bytes) else str.encode(content))
        return read_classes(path)

    return read


def of(*names, **more) -> str:
    return json.dumps({"classes": [{"name": name} for name in names], **more})


def test_names_a_line(read):
    classes = read("\N{BYTE ORDER MARK}sky\r\n  wet road \n\nBäume\n")
    assert classes.names == ("sky", "wet road", "Bäume") and len(classes) == 3
    assert not classes.void_ids and not classes.void_colours


def test_json_with_colours_and_void_comes_back_from_what_it_is_written_as(read):
    value = {
        "classes": [{"name": "sky", "colour": [128, 128, 128]}, {"name": "road", "colour": [1, 2, 3]}],
        "void": [11, [0, 0, 0], [255, 0, 0]],
    }
    classes = read("\n" + json.dumps(value))
    assert classes == ClassList(
        ("sky", "road"), ((128, 128, 128), (1, 2, 3)), frozenset({11}), frozenset({(0, 0, 0), (255, 0, 0)})
    )
    assert classes.palette.tolist() == [[128, 128, 128], [1, 2, 3]]
    assert classes.to_json() == value
    assert read(json.dumps(read("a\nb").to_json())) == read("a\nb")


def test_missing_colours_are_others_than_the_given_ones_and_void(read):
    first, second = read("a\nb").colours
    some = [{"name": "a"}, {"name": "b", "colour": list(first)}, {"name": "c"}]
    colours = read(json.dumps({"classes": some, "void": [list(second)]})).colours
    assert len({*colours, second}) == 4 and colours[1] == first


def test_255_classes_have_colours_that_are_different_and_no_grey(read):
    classes = read("\n".join(f"class {n}" for n in range(255)))
    assert len(set(classes.colours)) == 255
    assert all(len(set(colour)) > 1 for colour in classes.colours)
    assert classes.palette.shape == (255, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"expected 2\.\.255 classes, found 0"),
        ("one\n", r"expected 2\.\.255 classes, found 1"),
        ("\n".join(map(str, range(300))), r"expected 2\.\.255 classes, found 300"),
        ("a\nb\na", "expected different class names, found 'a' twice"),
        ("a\tb\nc", r"expected class names of letters that can be seen, found 'a\\tb'"),
        (of("a", ""), "letters that can be seen, found ''"),
        (of("a", 3), "letters that can be seen, found 3"),
        (b"\xff\xfe\nb", "expected a file of class names in UTF-8"),
        ("{", "expected class names a line, or JSON: "),
        ("{}", 'expected a list of "classes"'),
        (of("a", "b", void=7), 'expected a list of "classes" and perhaps one of "void"'),
        (of("a", "b", ignore=[1]), "expected only classes and void, found 'ignore' too"),
        ('{"classes": ["a", "b"]}', r"expected classes \{\"name\".*found 'a'"),
        ('{"classes": [{"name": "a", "color": [1, 2, 3]}]}', "expected only name and colour, found 'color'"),
        ('{"classes": [{"name": "a", "colour": [1, 2]}]}', r"three numbers 0\.\.255, found \[1, 2\]"),
        ('{"classes": [{"name": "a", "colour": [1, 2, 256]}]}', r"found \[1, 2, 256\]"),
        ('{"classes": [{"name": "a", "colour": [1, 2, true]}]}', r"found \[1, 2, True\]"),
        (of("a", "b", void=[256]), r'expected "void" to list ids 0\.\.255 or colours, found 256'),
        (of("a", "b", void=["a"]), "or colours, found 'a'"),
        (of("a", "b", void=[1]), "expected \"void\" to list what is no class, found 1, which is 'b'"),
        (
            '{"classes": [{"name": "a", "colour": [1, 2, 3]}, {"name": "b"}], "void": [[1, 2, 3]]}',
            r"to list what is no class, found \(1, 2, 3\), which is 'a'",
        ),
        (
            '{"classes": [{"name": "a", "colour": [1, 2, 3]}, {"name": "b", "colour": [1, 2, 3]}]}',
            r"a colour for each class alone, found \(1, 2, 3\) twice",
        ),
    ],
)
def test_a_wrong_class_file_is_refused(read, content, message):
    with pytest.raises(DataError, match=rf"classes: .*{message}"):
        read(content)


def test_a_missing_class_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"classes\.txt: expected a file of class names"):
        read_classes(tmp_path / "classes.txt")
