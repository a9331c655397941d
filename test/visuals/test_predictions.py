"""Pictures of judged windows: colours where they belong, and legends that say what they mean."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from scaleevent_ros.distill.configuration import EventOptions
from scaleevent_ros.tasks.classes import ClassList
from scaleevent_ros.tasks.evaluation_measure import Example
from scaleevent_ros.visuals.colour_scales import (
    LINE,
    UNKNOWN,
    ColourScale,
    colour_legend,
    flow_legend,
    flow_picture,
)
from scaleevent_ros.visuals.predictions import draw_example

HEIGHT, WIDTH = 240, 320  # as large as a tile, so that pixels stay where they are
TILES = range(0, 4 * 326, 326)
RED, BLUE = (255, 0, 0), (0, 0, 255)
CLASSES = ClassList(("smooth", "rough"), (BLUE, RED), frozenset({255}))


def example(
    prediction: np.ndarray, truth: np.ndarray, known: np.ndarray, **options: object
) -> Example:
    events = EventOptions(**options)  # type: ignore[arg-type]
    tensor = np.zeros((events.channels, HEIGHT, WIDTH), np.float32)
    tensor[-1, 100, 50] = 2
    tensor[0, 110, 60] = 2 if events.channels == 2 else -2
    classes = CLASSES if prediction.ndim == 2 else None
    return Example(events, tensor, prediction, truth, known, classes)


def pixel(picture: np.ndarray, tile: int, row: int, column: int) -> tuple[int, ...]:
    return tuple(picture[LINE + row, TILES[tile] + column].tolist())


def test_classes_have_their_colours_and_errors_are_told() -> None:
    prediction = np.zeros((HEIGHT, WIDTH), np.int64)
    truth = prediction.copy()
    truth[:, 100:] = 1
    truth[:, 200:] = 255
    picture = draw_example(example(prediction, truth, truth != 255))
    assert [pixel(picture, 1, 5, column) for column in (50, 150, 250)] == [BLUE, BLUE, BLUE]
    assert [pixel(picture, 2, 5, column) for column in (50, 150)] == [BLUE, RED]
    right, wrong, unknown = (pixel(picture, 3, 5, column) for column in (50, 150, 250))
    assert len({right, wrong, unknown}) == 3
    assert unknown == pixel(picture, 2, 5, 250) == (255, 255, 255)
    legend = picture[LINE + HEIGHT :].reshape(-1, 3)
    for colour in (BLUE, RED, right, wrong):
        assert (legend == colour).all(axis=-1).any(), colour


@pytest.mark.parametrize(
    "options",
    [{}, {"representation": "histogram"}, {"normalization": "none"}],
)
def test_brighter_events_are_red_and_darker_blue(options: dict[str, object]) -> None:
    depth = np.ones((1, HEIGHT, WIDTH), np.float32)
    picture = draw_example(example(depth, depth, depth[0] > 0, **options))
    # Both have the mean of active pixels, a third of what saturates.
    assert pixel(picture, 0, 100, 50) == (255, 170, 170)
    assert pixel(picture, 0, 110, 60) == (170, 170, 255)
    assert pixel(picture, 0, 0, 0) == (255, 255, 255)


def test_an_event_picture_is_shown_as_it_is() -> None:
    depth = np.ones((1, HEIGHT, WIDTH), np.float32)
    one = example(depth, depth, depth[0] > 0, bins=3, normalization="scaleevent_picture")
    white = ((1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]).astype(np.float32)
    picture = draw_example(one._replace(tensor=np.tile(white[:, None, None], (1, HEIGHT, WIDTH))))
    assert pixel(picture, 0, 7, 7) == (255, 255, 255)


def test_depth_and_its_error_are_on_scales() -> None:
    truth = np.tile(np.geomspace(2, 80, WIDTH, dtype=np.float32), (1, HEIGHT, 1))
    known = np.ones((HEIGHT, WIDTH), np.bool_)
    known[:50] = False
    wrong = truth.copy()
    wrong[0, :, :160] += 5
    picture = draw_example(example(wrong, truth, known))
    assert pixel(picture, 2, 100, 250) == pixel(picture, 1, 100, 250)
    assert pixel(picture, 2, 100, 20) != pixel(picture, 1, 100, 20)
    assert pixel(picture, 2, 10, 20) == pixel(picture, 3, 10, 20) == UNKNOWN
    brightness = [sum(pixel(picture, 2, 100, column)) for column in (10, 160, 310)]
    assert brightness == sorted(brightness)
    assert sum(pixel(picture, 3, 100, 250)) < 10
    assert sum(pixel(picture, 3, 100, 20)) > 500


def test_a_window_without_truth_is_drawn() -> None:
    depth = np.full((1, HEIGHT, WIDTH), 3, np.float32)
    unknown = np.zeros((HEIGHT, WIDTH), np.bool_)
    for made in (depth, np.tile(depth, (2, 1, 1))):
        picture = draw_example(example(made, np.full_like(made, np.nan), unknown))
        assert pixel(picture, 2, 5, 5) == pixel(picture, 3, 5, 5) == UNKNOWN
        assert pixel(picture, 1, 5, 5) != UNKNOWN


def test_flow_is_coloured_by_direction_and_length() -> None:
    right, down, left, none = (4.0, 0.0), (0.0, 4.0), (-8.0, 0.0), (0.0, 0.0)
    flow = np.array([right, down, left, none], np.float32).T[:, None]
    known = np.array([[True, True, True, True]])
    full = [[255, 0, 0], [128, 255, 0], [0, 255, 255], [255, 255, 255]]
    half = [[255, 128, 128], [191, 255, 128], [0, 255, 255], [255, 255, 255]]
    for longest, wanted in ((4, full), (8, half)):
        made = flow_picture(flow, longest, known)[0].astype(int)
        assert np.abs(made - wanted).max() <= 1, longest  # OpenCV rounds its own way
    assert tuple(flow_picture(flow, 4, ~known)[0, 1]) == UNKNOWN
    picture = draw_example(
        example(
            np.zeros((2, HEIGHT, WIDTH), np.float32),
            np.tile(np.array([[[3]], [[0]]], np.float32), (1, HEIGHT, WIDTH)),
            np.ones((HEIGHT, WIDTH), np.bool_),
        )
    )
    assert pixel(picture, 1, 9, 9) == (255, 255, 255)
    assert pixel(picture, 2, 9, 9) == RED
    wheel = flow_legend(3, 300)
    assert wheel.shape == (4 * LINE, 300, 3)
    assert wheel[2 * LINE, 8 + 4 * LINE - 3].tolist()[0] == 255  # right is red
    assert wheel[2 * LINE, 8 + 2].tolist()[0] < 30  # left is cyan


def test_a_scale_spans_its_values() -> None:
    values = np.array([[1, 10, 100, 1000]], np.float32)
    known = np.array([[True, True, True, False]])
    colours = ColourScale(1, 100, cv2.COLORMAP_VIRIDIS, logarithmic=True).picture(values, known)
    table = cv2.applyColorMap(np.array([[0, 128, 255]], np.uint8), cv2.COLORMAP_VIRIDIS)[0, :, ::-1]
    assert colours[0, :3].tolist() == table.tolist()
    assert tuple(colours[0, 3]) == UNKNOWN
    beyond = ColourScale(0, 10, cv2.COLORMAP_VIRIDIS).picture(values - 5, known)
    assert beyond[0, 0].tolist() == table[0].tolist()
    assert beyond[0, 2].tolist() == table[2].tolist()


def test_a_long_legend_has_several_lines() -> None:
    names = [f"class {number}" for number in range(20)]
    colours = [(number, 0, 100) for number in range(20)]
    legend = colour_legend(names, colours, 400)
    assert len(legend) > 2 * LINE
    for colour in colours:
        assert (legend == colour).all(axis=-1).sum() > 50
