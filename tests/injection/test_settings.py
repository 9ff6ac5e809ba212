from __future__ import annotations

import pytest

from meshproxy.injection.settings import (
    Settings,
    amount,
    read_cpu,
    read_image,
    read_memory,
    read_release,
    read_whole,
    times,
)
from tests.injection.pods import SETTINGS


@pytest.mark.parametrize(
    ("text", "release"),
    [("1.37", (1, 37)), ("v1.37.2", (1, 37)), ("1.28+", (1, 28)), ("v1.29.3-gke.1", (1, 29)), ("1.30+k3s1", (1, 30))],
)
def test_releases(text: str, release: tuple[int, int]) -> None:
    assert read_release(text) == release


@pytest.mark.parametrize("text", ["", "1", "one.two", "1.37x", "1.37\n"])
def test_what_is_no_release(text: str) -> None:
    with pytest.raises(ValueError, match="release of Kubernetes"):
        read_release(text)


@pytest.mark.parametrize(("text", "value"), [("50m", 0.05), ("1", 1), ("0.5", 0.5)])
def test_processor_time(text: str, value: float) -> None:
    assert amount(read_cpu(text)) == value


@pytest.mark.parametrize(("text", "value"), [("64Mi", 64 << 20), ("2G", 2e9), ("1048576", 1 << 20)])
def test_memory(text: str, value: float) -> None:
    assert amount(read_memory(text)) == value


@pytest.mark.parametrize("text", ["", "0", "-1", "1e3", "64 Mi", "64mi", "Mi", "1\n"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="expected an amount of processor time"):
        read_cpu(text)
    with pytest.raises(ValueError, match="expected an amount of memory"):
        read_memory(text)


def test_an_amount_of_something_else() -> None:
    for text in ("64Mi", "1G"):
        with pytest.raises(ValueError, match='such as "250m"'):
            read_cpu(text)
    with pytest.raises(ValueError, match='got "512m": "m" is a thousandth of a byte'):
        read_memory("512m")
    with pytest.raises(ValueError, match='such as "64Mi" or "1Gi", got "512"'):
        read_memory("512")


def test_whole_numbers() -> None:
    assert (read_whole("0", 0, 9), read_whole("09", 1, 9)) == (0, 9)
    for text in ("", "0", "10", "+1", " 1", "1\n", "\u0661", "0000000001", "00010", "9" * 9_999):
        with pytest.raises(ValueError, match="expected a whole number from 1 to 9"):
            read_whole(text, 1, 9)


def test_images() -> None:
    assert read_image("registry.example.com:5000/a/b:1.0@sha256:" + 64 * "0")
    for text in ("", "a b", "-a", "a\n", "a" * 600):
        with pytest.raises(ValueError, match="expected an image"):
            read_image(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image", ""),
        ("trust_bundle", "none"),
        ("control_plane", "nowhere"),
        ("control_plane_id", "control"),
        ("namespace", "A"),
        ("server", "A"),
        ("listen", "127.0.0.1"),
    ],
)
def test_settings_are_checked(field: str, value: str) -> None:
    names = ("image", "trust_bundle", "control_plane", "control_plane_id", "namespace", "server", "listen")
    values = {name: getattr(SETTINGS, name) for name in names}
    with pytest.raises(ValueError):
        Settings(**{**values, field: value})


def test_native_sidecars_need_a_release() -> None:
    assert SETTINGS.is_native
    values = (SETTINGS.image, SETTINGS.trust_bundle, SETTINGS.control_plane, SETTINGS.control_plane_id)
    assert not Settings(*values, kubernetes=(1, 28)).is_native
    assert Settings(*values, kubernetes=(2, 0)).is_native


@pytest.mark.parametrize(
    ("quantity", "expected"), [("64Mi", "192Mi"), ("1.5Gi", "4.500Gi"), ("1000000000", "3000000000")]
)
def test_several_times_a_quantity(quantity: str, expected: str) -> None:
    assert times(quantity, 3) == expected
    assert amount(expected) == 3 * amount(quantity)
