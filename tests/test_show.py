"""What points look like, and what cannot be shown says so."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from upweight import show
from upweight.errors import ShapeError


def picture(look) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(look["src"].split(",")[1])))


@pytest.mark.parametrize(
    ("values", "corner"),
    [
        (np.array([[0, 255], [128, 7]], np.uint8), 0),
        (np.array([[0.0, 1.0], [0.5, 0.2]]), 0),
        (np.array([[0, 16], [8, 4]]), 0),
        (np.array([[-3.0, 5.0], [1.0, 2.0]]), 0),
        (np.full((2, 2), 7.5), 255),
    ],
)
def test_arrays_of_any_range_become_pictures(values, corner):
    found = np.asarray(picture(show.Images([values]).of_train(0)))
    assert found.shape == (2, 2) and found[0, 0] == corner


def test_small_pictures_keep_every_pixel_and_large_ones_become_small():
    digits = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    np.testing.assert_array_equal(np.asarray(picture(show.Images([digits]).of_train(0))), digits)
    large = picture(show.Images([np.zeros((3, 400, 200))]).of_train(0))
    assert large.format == "WEBP" and large.size == (48, 96) and large.mode == "RGB"


def test_files_are_encoded_anew_and_broken_ones_say_why(tmp_path, monkeypatch):
    Image.new("P", (200, 100), 3).save(tmp_path / "good.gif")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    (tmp_path / "evil.svg").write_text("<svg onload='alert(1)'/>")
    paths = [tmp_path / name for name in ("good.gif", "bad.png", "evil.svg", "gone.png")]
    found = show.Images(paths, paths[:1])
    assert picture(found.of_train(0)).format == "WEBP" and picture(found.of_query(0)).size == (96, 48)
    assert all("broken" in found.of_train(place) for place in (1, 2, 3))
    monkeypatch.setattr("upweight.show.images.LARGEST", 10)
    assert "20000 pixels" in found.of_train(0)["broken"].replace(",", "").replace("200 × 100", "20000")


def test_what_is_no_picture_says_so():
    shapes = [np.zeros(5), np.zeros((2, 2, 7)), np.full((2, 2), np.nan), np.zeros((2, 2, 2, 2))]
    assert all("broken" in show.Images(shapes).of_train(place) for place in range(4))


def test_texts_are_cut_and_say_by_how_much():
    found = show.Text(pd.Series(["short", "x" * 10**6, None], index=[7, 8, 9]))
    assert found.of_train(0) == {"text": "short"} and found.of_train(2) == {"text": ""}
    assert found.of_train(1)["left"] == 10**6 - len(found.of_train(1)["text"])


def test_tokens_carry_a_number_each():
    found = show.Tokens([["a", "b"], ["c"] * 500], heat=[[1.0, -2.0], [np.nan] * 500], meaning="hope")
    assert found.of_train(0) == {"tokens": ["a", "b"], "heat": [1.0, -2.0], "top": 2.0}
    assert found.of_train(1)["left"] == 100 and found.of_train(1)["top"] == 0.0 and found.head == {"meaning": "hope"}
    assert show.Tokens([["a"]]).of_train(0) == {"tokens": ["a"]} and found.of_query(0) is None
    assert show.Tokens([["a"]], [["q"]], query_heat=[[3]]).of_query(0)["top"] == 3.0
    with pytest.raises(ShapeError, match="1 heats for 2 tokens"):
        show.Tokens([["a", "b"]], heat=[[1.0]]).of_train(0)


def test_tables_show_their_first_columns():
    frame = pd.DataFrame({f"c{i}": [i + 0.123456789, "x" * 999] for i in range(15)}, index=["p", "q"])
    found = show.Table(frame)
    assert found.head == {"columns": [f"c{i}" for i in range(12)], "left": 3}
    assert found.of_train(0)["cells"][1] == "1.1235" and len(found.of_train(1)["cells"][0]) == 200
    assert show.Table(np.zeros((2, 3))).head["columns"] == ["x0", "x1", "x2"]


def test_series_keep_their_peaks():
    values = np.zeros((1, 10_000))
    values[0, 4321], values[0, 8000] = 9.0, -5.0
    (channel,) = show.Series(values).of_train(0)["series"]
    assert len(channel) <= 240 and max(channel) == 9.0 and min(channel) == -5.0
    two = show.Series(np.array([[[1.0, 2.0], [np.nan, 4.0]]])).of_train(0)["series"]
    assert two == [[1.0, None], [2.0, 4.0]]
    assert "broken" in show.Series([np.zeros((2, 2, 2))]).of_train(0)
